package example

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/example/agents"
	"github.com/countersign/countersign/internal/example/courier"
	"github.com/countersign/countersign/internal/example/forge"
	"github.com/countersign/countersign/internal/example/helpdesk"
	"github.com/countersign/countersign/internal/example/ledger"
	"github.com/countersign/countersign/internal/example/model"
)

// The environment variables from which the servers take the credential they
// demand of their callers. The ledger's is [ledger.SecretEnv].
const (
	ModelKeyEnv     = "MODEL_KEY"
	DeskTokenEnv    = "HELPDESK_TOKEN"
	ForgeTokenEnv   = "FORGE_TOKEN"
	CourierTokenEnv = "COURIER_TOKEN"
)

// Parts are the names [Run] knows.
var Parts = []string{"model", "helpdesk", "courier", "forge", "ledger", "support", "invoices", "knowledge", "release"}

// IO is what a part has of the world.
type IO struct {
	Getenv func(string) string
	Stdin  io.ReadCloser
	Stdout io.WriteCloser
	Stderr io.Writer
}

// ErrUsage says how a part is called.
var ErrUsage = errors.New("usage: countersign example model|helpdesk|courier|forge [--listen ADDR] [--data DIR] [--arrivals DURATION], " +
	"countersign example ledger [--data DIR] [--arrivals DURATION], countersign example support [TICKET], countersign example invoices, countersign example knowledge [QUESTION], countersign example release [VERSION]")

// Run runs one part of the business until it is finished or ctx is done.
//
// The servers model, helpdesk, courier and forge print one line "ready URL" on standard output
// once they answer; the ledger speaks MCP on standard input and output; the
// agents print what they do.
func Run(ctx context.Context, part string, args []string, world IO) error {
	flags := flag.NewFlagSet(part, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	listen := flags.String("listen", "127.0.0.1:0", "address to listen on")
	data := flags.String("data", "", "directory for the data")
	arrivals := flags.Duration("arrivals", 0, "how often new work comes in; 0 means never")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	log := slog.New(slog.NewTextHandler(world.Stderr, nil))
	env := agents.ReadEnv(world.Getenv)
	switch {
	case part == "model" && flags.NArg() == 0:
		return runModel(ctx, *listen, world)
	case part == "helpdesk" && flags.NArg() == 0 && *data != "":
		return runHelpdesk(ctx, *listen, helpdesk.Options{Dir: *data, Token: world.Getenv(DeskTokenEnv), Arrivals: *arrivals, Log: log}, world)
	case part == "courier" && flags.NArg() == 0 && *data != "":
		return runCourier(ctx, *listen, courier.Options{Dir: *data, Token: world.Getenv(CourierTokenEnv)}, world)
	case part == "forge" && flags.NArg() == 0 && *data != "":
		return runForge(ctx, *listen, forge.Options{Dir: *data, Token: world.Getenv(ForgeTokenEnv)}, world)
	case part == "ledger" && flags.NArg() == 0 && *data != "":
		return runLedger(ctx, ledger.Options{Dir: *data, Secret: world.Getenv(ledger.SecretEnv), Arrivals: *arrivals, Log: log}, world)
	case part == "support" && flags.NArg() <= 1:
		env.Task = flags.Arg(0)
		return agents.Support(ctx, env, world.Stdout)
	case part == "knowledge" && flags.NArg() <= 1:
		env.Task = flags.Arg(0)
		return agents.Knowledge(ctx, env, world.Stdout)
	case part == "release" && flags.NArg() <= 1:
		env.Task = flags.Arg(0)
		return agents.Release(ctx, env, world.Stdout)
	case part == "invoices" && flags.NArg() == 0:
		return agents.Invoices(ctx, env, world.Stdout)
	}
	return fmt.Errorf("%w (got %s)", ErrUsage, strings.Join(append([]string{part}, args...), " "))
}

func runModel(ctx context.Context, listen string, world IO) error {
	s, err := model.New(model.Options{Key: world.Getenv(ModelKeyEnv)})
	if errors.Is(err, model.ErrNoKey) {
		return fmt.Errorf("%w (environment variable %s)", err, ModelKeyEnv)
	}
	if err != nil {
		return err
	}
	return serve(ctx, listen, "", world, s.Serve)
}

func runHelpdesk(ctx context.Context, listen string, opts helpdesk.Options, world IO) error {
	s, err := helpdesk.New(ctx, opts)
	if errors.Is(err, helpdesk.ErrNoToken) {
		return fmt.Errorf("%w (environment variable %s)", err, DeskTokenEnv)
	}
	if err != nil {
		return err
	}
	return errors.Join(serve(ctx, listen, helpdesk.Path, world, s.Serve), s.Close())
}

func runCourier(ctx context.Context, listen string, opts courier.Options, world IO) error {
	s, err := courier.New(opts)
	if errors.Is(err, courier.ErrNoToken) {
		return fmt.Errorf("%w (environment variable %s)", err, CourierTokenEnv)
	}
	if err != nil {
		return err
	}
	return serve(ctx, listen, courier.Path, world, s.Serve)
}

func runForge(ctx context.Context, listen string, opts forge.Options, world IO) error {
	s, err := forge.New(ctx, opts)
	if errors.Is(err, forge.ErrNoToken) {
		return fmt.Errorf("%w (environment variable %s)", err, ForgeTokenEnv)
	}
	if err != nil {
		return err
	}
	return serve(ctx, listen, "", world, s.Serve)
}

func serve(ctx context.Context, listen, path string, world IO, answer func(context.Context, net.Listener) error) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(world.Stdout, "ready http://%s%s\n", l.Addr(), path); err != nil {
		return errors.Join(err, l.Close())
	}
	return answer(ctx, l)
}

func runLedger(ctx context.Context, opts ledger.Options, world IO) error {
	openCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s, err := ledger.New(openCtx, opts)
	if err != nil {
		return err
	}
	return errors.Join(s.Run(ctx, world.Stdin, world.Stdout), s.Close())
}
