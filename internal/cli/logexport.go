package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

// The formats of log export.
const (
	formatLog   = "log"
	formatJSONL = "jsonl"
	formatOCSF  = "ocsf"
)

type exportFlags struct {
	out, format, since, until, after string
	first                            int64
	resume, payloads                 bool
}

func (a *app) logExport() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{Use: "export", Short: "Write the log to a file: verifiable, as plain events, or as OCSF", Args: operands(),
		Long: `Without --since or --format it writes the sealed log: every event's exact bytes and its place, under a signed checkpoint, for
countersign log verify FILE.

--format jsonl writes the events of a time as the log holds them, one a line, oldest first; --format ocsf as OCSF 1.8 (API Activity,
Authentication, Account Change, Detection Finding). An export that was cut off goes on by itself; one that was interrupted goes on with
--resume and the same --out. For exports that go on for ever see docs/export.md and countersign log export status.`,
		Example: "  countersign log export --out log.jsonl\n  countersign log export --format ocsf --since 24h --out day.ocsf.jsonl"}
	fl := cmd.Flags()
	fl.StringVar(&f.out, "out", "", "file to write (default standard output)")
	fl.StringVar(&f.format, "format", "", "log, jsonl or ocsf (default log, or jsonl with --since)")
	fl.StringVar(&f.since, "since", "", "events from then on: 24h, 7d, 2026-10-01 or RFC 3339")
	fl.StringVar(&f.until, "until", "", "events before then")
	fl.StringVar(&f.after, "after", "", "begin after this event")
	fl.BoolVar(&f.resume, "resume", false, "go on where the file of --out ends")
	fl.BoolVar(&f.payloads, "payloads", false, "with prompts, answers, arguments and results, as they are stored; it is recorded. With --format log also their salts, so that log verify compares them with their commitments")
	fl.Int64Var(&f.first, "first", 0, "with the sealed log: begin with this index")
	fixed(cmd, "format", formatLog, formatJSONL, formatOCSF)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		if f.format == formatLog {
			return a.exportSealed(ctx, c, f)
		}
		return a.exportEvents(ctx, c, f)
	})
	cmd.AddCommand(a.exportStatus(), a.exportGoOn("resume", "Have a continuous export that stopped try again", (*client.Client).ResumeExport, "tries again"),
		a.exportGoOn("skip", "Have a continuous export go on without the event that it stopped at", (*client.Client).SkipExport, "goes on without the event; it stays in the log"))
	return cmd
}

func (f *exportFlags) check() error {
	timed := f.since != "" || f.until != "" || f.after != "" || f.resume
	if f.format == "" {
		f.format = formatLog
		if timed || f.payloads {
			f.format = formatJSONL
		}
	}
	switch {
	case f.format != formatLog && f.format != formatJSONL && f.format != formatOCSF:
		return usageError{fmt.Errorf("--format %s: the formats are log, jsonl and ocsf", f.format)}
	case f.format == formatLog && timed:
		return usageError{errors.New("the sealed log is exported whole, or from --first on; --since and the like need --format jsonl or ocsf")}
	case f.format != formatLog && f.first != 0:
		return usageError{errors.New("--first belongs to the sealed log; use --since or --after")}
	case f.resume && (f.out == "" || f.after != ""):
		return usageError{errors.New("--resume reads where to go on from the file of --out")}
	}
	return nil
}

// exportSealed writes the verifiable log.
func (a *app) exportSealed(ctx context.Context, c *client.Client, f exportFlags) error {
	if f.out == "" {
		return c.ExportLog(ctx, f.first, f.payloads, a.stdout)
	}
	file, err := os.OpenFile(f.out, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := a.waiting("exporting", func() error { return c.ExportLog(ctx, f.first, f.payloads, file) }); err != nil {
		file.Close()
		return fmt.Errorf("%w; what is in %s is not whole", err, f.out)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return err
	}
	return a.did(struct {
		ID string `json:"id"`
	}{f.out}, "the log is in %s; verify it with: countersign log verify %s", f.out, f.out)
}

// attempts is how often in a row an export that is cut off goes on by itself
// without getting further.
const attempts = 5

// exportEvents writes events of a time.
func (a *app) exportEvents(ctx context.Context, c *client.Client, f exportFlags) (err error) {
	q := client.EventsQuery{Format: f.format, After: f.after, Payloads: f.payloads}
	if q.Since, err = moment("--since", f.since, time.Now()); err != nil {
		return err
	}
	if q.Until, err = moment("--until", f.until, time.Now()); err != nil {
		return err
	}
	if q.Until.IsZero() {
		q.Until = time.Now() // one end, however often it is taken up again
	}
	out, file := a.stdout, (*os.File)(nil)
	if f.out != "" {
		if file, q.After, err = openExport(f); err != nil {
			return err
		}
		defer file.Close() // a second time does nothing
		out = file
	}
	w := bufio.NewWriterSize(out, 64<<10)
	n, err := a.download(ctx, c, q, w)
	if err := errors.Join(err, w.Flush()); err != nil {
		if file != nil && n > 0 {
			return fmt.Errorf("%w; %d events are in %s, go on with --resume", err, n, f.out)
		}
		return err
	}
	if file == nil {
		return nil
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return err
	}
	return a.did(struct {
		ID     string `json:"id"`
		Events int64  `json:"events"`
	}{f.out, n}, "%d events are in %s", n, f.out)
}

// download writes lines, and goes on when it was cut off.
func (a *app) download(ctx context.Context, c *client.Client, q client.EventsQuery, w io.Writer) (n int64, err error) {
	p := a.progress()
	defer p.end()
	for failed := 0; failed < attempts; failed++ {
		err = c.DownloadEvents(ctx, q, func(line []byte) error {
			id := lineEvent(line)
			if id == "" {
				return errors.New("a line of the export names no event: the server is of another version")
			}
			if _, err := w.Write(append(line, '\n')); err != nil {
				return err
			}
			q.After, failed = id, 0
			n++
			p.show(n)
			return nil
		})
		if !errors.Is(err, client.ErrCutOff) && !errors.Is(err, client.ErrUnreachable) {
			return n, err
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-time.After(time.Duration(failed+1) * 200 * time.Millisecond):
		}
	}
	return n, err
}

// lineEvent returns the event that a line is about, in any of the formats.
func lineEvent(line []byte) string {
	var o struct {
		ID       string `json:"id"`
		Event    struct{ ID string }
		Metadata struct{ UID string }
	}
	if err := json.Unmarshal(line, &o, json.MatchCaseInsensitiveNames(true)); err != nil {
		return ""
	}
	return o.ID + o.Event.ID + o.Metadata.UID
}

// openExport opens the file. To resume it cuts off what was torn and returns
// the last event that arrived.
func openExport(f exportFlags) (*os.File, string, error) {
	flags := os.O_CREATE | os.O_RDWR
	if !f.resume {
		flags |= os.O_TRUNC
	}
	file, err := os.OpenFile(f.out, flags, 0o600)
	if err != nil || !f.resume {
		return file, f.after, err
	}
	after, whole, err := lastEvent(file)
	if err == nil {
		err = file.Truncate(whole)
	}
	if err == nil {
		_, err = file.Seek(whole, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return nil, "", fmt.Errorf("%s: %w", f.out, err)
	}
	return file, after, nil
}

// lastEvent returns the event of the last whole line and where that ends.
func lastEvent(file io.Reader) (after string, whole int64, err error) {
	r := bufio.NewReaderSize(file, 64<<10)
	var last []byte
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", 0, err
		}
		last, whole = line, whole+int64(len(line))
	}
	if last == nil {
		return "", 0, nil
	}
	if after = lineEvent(bytes.TrimSpace(last)); after == "" {
		return "", 0, errors.New("its last line is not of an export: nothing was written")
	}
	return after, whole, nil
}

// moment reads a time: how long ago (24h, 7d), a day or RFC 3339.
func moment(flag, s string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 100_000 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := day(flag, s)
	if err != nil {
		return t, usageError{fmt.Errorf("%s: %q is not a time: say how long ago (24h, 7d), a day (2026-10-01) or 2026-10-01T08:00:00Z", flag, s)}
	}
	return t, nil
}

// progress tells on a terminal how many events there are so far.
type progress struct {
	a     *app
	on    bool
	shown time.Time
}

func (a *app) progress() *progress {
	return &progress{a: a, on: colours(a.stderr) && a.output != "json"}
}

func (p *progress) show(n int64) {
	if p.on && time.Since(p.shown) > 200*time.Millisecond {
		p.shown = time.Now()
		fmt.Fprintf(p.a.stderr, "\r%d events", n)
	}
}

func (p *progress) end() {
	if p.on && !p.shown.IsZero() {
		fmt.Fprint(p.a.stderr, "\r\x1b[K")
	}
}

func (a *app) exportStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show how the continuous exports go", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Exports(ctx)
		if err != nil {
			return err
		}
		colour := func(e client.Export) string {
			return map[string]string{"following": green, "failing": yellow, "blocked": red}[e.State]
		}
		err = list(a, all, "nothing is exported continuously; see docs/export.md",
			column[client.Export]{title: "TARGET", text: func(e client.Export) string { return e.ID }},
			column[client.Export]{title: "STATE", text: func(e client.Export) string { return e.State }, paint: colour},
			column[client.Export]{title: "BEHIND", text: func(e client.Export) string { return fmt.Sprint(e.Behind) }},
			column[client.Export]{title: "SENT", text: func(e client.Export) string { return fmt.Sprint(e.Sent) }},
			column[client.Export]{title: "LAST", text: func(e client.Export) string { return ago(e.LastSent) }},
			column[client.Export]{title: "DESTINATION", text: func(e client.Export) string { return e.Destination }})
		if err != nil || a.output == "json" {
			return err
		}
		for _, e := range all {
			if e.Error != "" {
				since := ""
				if !e.Since.IsZero() {
					since = " since " + ago(e.Since)
				}
				a.warn("%s%s: %s", e.ID, since, inert(e.Error, 0))
			}
			if e.Help != "" {
				a.warn("%s stopped at %s: %s", e.ID, e.BlockedAt, inert(e.Help, 0))
			}
		}
		return nil
	})
	return cmd
}

func (a *app) exportGoOn(verb, short string, fn func(*client.Client, context.Context, string) error, told string) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " TARGET", Short: short, Args: operands("TARGET"), ValidArgsFunction: a.completeFirst(exportNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := fn(c, ctx, args[0]); err != nil {
			return err
		}
		return a.did(struct {
			ID string `json:"id"`
		}{args[0]}, "%s %s", args[0], told)
	})
	return cmd
}

func exportNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Exports(ctx)
	return namesOf(l, err, func(e client.Export) string { return e.ID })
}
