// Command countersign is the whole product: the server (countersign up) and
// the command line.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"filippo.io/age"
	"golang.org/x/term"

	"github.com/countersign/countersign/internal/backup/archive"
	"github.com/countersign/countersign/internal/cli"
	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/server"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cli.Main(ctx, cli.Options{Version: version, Serve: serve, Restore: restore})
}

func serve(ctx context.Context, c config.Config, ready func(cli.Ready)) error {
	return server.Run(ctx, c, version, logger(c), func(r server.Ready) { ready(cli.Ready(r)) })
}

func restore(ctx context.Context, c config.Config, backup io.Reader, keys []age.Identity) (archive.Head, archive.Tally, error) {
	return server.Restore(ctx, c, backup, keys)
}

// logger reports about the process itself, on standard error.
func logger(c config.Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Log.Level)) // validated by config
	o := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "text" || c.Log.Format == "" && term.IsTerminal(int(os.Stderr.Fd())) {
		return slog.New(slog.NewTextHandler(os.Stderr, o))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o))
}
