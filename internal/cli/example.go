package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/example"
)

func (a *app) exampleCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "example PART [ARGUMENT...]", Short: "Run one part of the example business", Hidden: true, DisableFlagParsing: true,
		Args: operands("PART", "[ARGUMENT...]"), ValidArgs: example.Parts}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := example.Run(cmd.Context(), args[0], args[1:], example.IO{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
		if errors.Is(err, example.ErrUsage) {
			return usageError{err}
		}
		return err
	}
	return cmd
}

// The example's rhythm when it goes on: how often new work comes in, and the
// pause between tasks.
const (
	arrivalEvery = 20 * time.Second
	taskEvery    = 30 * time.Second
)

// showcase is the example under way.
type showcase struct {
	*app
	*business
	c    *client.Client
	data string // the server's directory, as the person knows it
}

// example runs the example business on the server that s reaches, until ctx
// ends; with once only the first scenario, which fails unless both attacks
// were refused.
func (a *app) example(ctx context.Context, cfg config.Config, s client.Settings, once bool) error {
	b, err := openBusiness(filepath.Join(cfg.Data, "example"))
	if err != nil {
		return err
	}
	sc := &showcase{app: a, business: b, c: client.New(s.URL, s.Token).WithReason("the example business"), data: cfg.Data}
	err = sc.run(ctx, once)
	if ctx.Err() != nil && !once {
		return nil // it was interrupted, which is how it ends
	}
	return err
}

func (s *showcase) run(ctx context.Context, once bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the company's servers
	fmt.Fprintln(s.stdout, s.paint(s.stdout, bold, "Hanse Trade, an example business, is opening"))
	if err := s.waiting("starting its systems", func() error { return s.open(ctx, arrivalEvery) }); err != nil {
		return err
	}
	if err := s.register(ctx); err != nil {
		return err
	}
	verdict, err := s.scenario(ctx)
	if err != nil {
		return err
	}
	if once {
		s.whereNext(verdict, false)
		return verdict.err()
	}
	if err := s.office(ctx); err != nil && ctx.Err() == nil {
		s.warn("the people of the house could not do all of their work: %v", err) // the agents go on
	}
	s.whereNext(verdict, true)
	return s.goOn(ctx)
}

// register applies the company's files, as a person would with apply.
func (s *showcase) register(ctx context.Context) error {
	files, err := example.Files(s.addresses)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.dir, "files")
	if err := example.WriteDir(dir, s.addresses); err != nil {
		return err
	}
	var texts []client.NamedText
	for _, f := range files {
		texts = append(texts, client.NamedText{Name: f.Name, Text: string(f.Text)})
	}
	found, err := findSecrets(texts, s.secrets)
	if err != nil {
		return err
	}
	var out client.Application
	err = s.waiting("registering people, agents, connections and policies", func() (err error) {
		out, err = s.c.Apply(ctx, texts, found.values, false)
		return err
	})
	if err != nil {
		return fmt.Errorf("the example's files could not be applied: %w", err)
	}
	if len(out.Problems) > 0 {
		for _, p := range out.Problems {
			fmt.Fprintln(s.stderr, inert(p.String(), 0))
		}
		return errors.New("the example's files do not fit what is registered here: use a fresh --data")
	}
	if err := s.furnish(ctx, filepath.Join(dir, example.Handbook)); err != nil {
		return err
	}
	changed := 0
	for _, c := range out.Changes {
		if c.Op != "none" {
			changed++
		}
	}
	for provider, address := range map[string]string{"OpenAI": s.addresses.OpenAI, "Anthropic": s.addresses.Anthropic} {
		if strings.HasPrefix(address, "https://") {
			fmt.Fprintf(s.stdout, "  %s answers for real, with the key in your environment\n", provider)
		}
	}
	fmt.Fprintf(s.stdout, "  registered from the files in %s (%d of %d changed)\n\n", dir, changed, len(out.Changes))
	return nil
}

// task is one piece of an agent's work.
type task struct {
	agent string
	part  []string // arguments of `countersign example`
	title string
	user  string // on whose behalf; empty: nobody's
	ci    bool   // it is a CI job, and proves that
}

// line is how a person would start the task.
func (t task) line() string {
	behalf := ""
	if t.ci {
		behalf = " --identity token"
	}
	if t.user != "" {
		behalf = " --on-behalf-of me --scope '" + behalfScope + "'"
	}
	part := ""
	for _, p := range t.part {
		part += " " + quoted(p)
	}
	return fmt.Sprintf("%s run --agent %s%s -- %s example%s", self(), t.agent, behalf, self(), part)
}

// perform runs an agent under a run of its own, exactly as countersign run
// does, and returns the run. lines gets what the agent prints.
func (s *showcase) perform(ctx context.Context, t task, lines func(string)) (string, error) {
	f := runFlags{agent: t.agent, ttl: 10 * time.Minute, openai: "openai", anthropic: "anthropic"}
	b, err := s.begin(ctx, t, &f)
	if err != nil {
		return "", err
	}
	run := b.run
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := b.end(end); err != nil && ctx.Err() == nil {
			s.warn("the run token of %s could not be revoked: %v", run.Run, err)
		}
	}()
	env, err := runEnvironment(s.c.URL(), f, b)
	if err != nil {
		return run.Run, err
	}
	cmd := exec.Command(s.exe, append([]string{"example"}, t.part...)...)
	cmd.Env = env
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	p, err := start(ctx, cmd)
	if err != nil {
		return run.Run, err
	}
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		for in := bufio.NewScanner(read); in.Scan(); {
			lines(in.Text())
		}
		_, _ = io.Copy(io.Discard, read) // after a line that is too long
	}()
	err = p.wait()
	_ = write.Close() // never fails
	<-printed
	if err != nil {
		return run.Run, fmt.Errorf("%s ended with an error: %w (countersign log trace %s)", t.agent, err, run.Run)
	}
	return run.Run, nil
}

// begin starts the run of a task in the way that it is done: by the person who
// started the example, on behalf of a colleague, or by a CI job.
func (s *showcase) begin(ctx context.Context, t task, f *runFlags) (began, error) {
	if t.ci {
		return s.asJob(ctx, t, f)
	}
	if t.user == "" {
		return asPerson(ctx, s.c, *f)
	}
	c, err := s.as(ctx, t.user)
	if err != nil {
		return began{}, err
	}
	f.behalf, f.scope, f.anthropic = "me", behalfScope, ""
	return onBehalf(ctx, c, *f)
}

// asJob starts a run with what the CI system says of the job. No credential of
// the agent is kept anywhere.
func (s *showcase) asJob(ctx context.Context, t task, f *runFlags) (began, error) {
	proof, err := jobToken(s.known.CIKey, s.c.URL())
	if err != nil {
		return began{}, err
	}
	c := client.New(s.c.URL(), "")
	run, err := c.StartRunWithProof(ctx, t.agent, proof, f.ttl)
	if err != nil {
		return began{}, fmt.Errorf("the CI system's word for %s was not taken: %w", t.agent, err)
	}
	f.anthropic = ""
	return proved(c, run, byToken), nil
}

// goOn keeps a quiet stream of work going.
func (s *showcase) goOn(ctx context.Context) error {
	fmt.Fprintln(s.stdout, s.paint(s.stdout, dim, "The agents go on with new work. Ctrl-C stops everything."))
	work := []task{{agent: example.SupportAssistant, part: []string{"support"}, title: "a ticket"}, {agent: example.InvoiceChecker, part: []string{"invoices"}, title: "open invoices"}}
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(taskEvery):
		}
		t := work[i%len(work)]
		run, err := s.perform(ctx, t, func(string) {})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.warn("%v", err)
			continue
		}
		tr, err := s.trace(ctx, run)
		if err != nil {
			s.warn("%v", err)
			continue
		}
		refused := ""
		if tr.Refused > 0 {
			refused = ", " + s.paint(s.stdout, red, fmt.Sprintf("%d refused", tr.Refused))
		}
		fmt.Fprintf(s.stdout, "%s  %-17s %s, %d calls%s  %s\n", s.paint(s.stdout, dim, time.Now().Format(time.TimeOnly)), t.agent, t.title, tr.Calls, refused,
			s.paint(s.stdout, dim, s.command("log trace "+run)))
	}
}

func (s *showcase) trace(ctx context.Context, run string) (*trace, error) {
	entries, _, err := s.c.Run(ctx, run)
	if err != nil {
		return nil, err
	}
	return traceOf(run, entries), nil
}

// command is how the person types a command of this program, here.
func (s *showcase) command(args string) string { return self() + " " + args }

// self is how this program was called, in a form that works when pasted.
func self() string {
	exe, err := os.Executable()
	if err != nil {
		return "countersign"
	}
	found, err := exec.LookPath("countersign")
	if err == nil {
		one, err1 := os.Stat(found)
		other, err2 := os.Stat(exe)
		if err1 == nil && err2 == nil && os.SameFile(one, other) {
			return "countersign"
		}
	}
	if strings.ContainsRune(os.Args[0], filepath.Separator) {
		return os.Args[0]
	}
	return exe
}
