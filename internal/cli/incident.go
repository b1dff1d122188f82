package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/incident/account"
)

func (a *app) incidentCommand() *cobra.Command {
	return group("incident", "Gather what belongs to an incident, and hand it over with proofs", a.incidentOpen(), a.incidentList(), a.incidentShow(), a.incidentNote(), a.incidentClose(), a.incidentExport(), a.incidentVerify())
}

func incidentIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Incidents(ctx, "", "", 100)
	return namesOf(l, err, func(i client.Incident) string { return i.ID + "\t" + i.Title })
}

func (a *app) incidentOpen() *cobra.Command {
	var s client.IncidentStart
	var since, until string
	cmd := &cobra.Command{Use: "open [FINDING] --reason TEXT", Short: "Open an incident from a finding, an agent or a run", Args: operands("[FINDING]"), ValidArgsFunction: a.completeFirst(findingIDs),
		Long: `An incident gathers from the log, as long as it is open: the runs and credentials, the business objects that were touched, the calls that may have
changed something, decisions, approvals, and all of it in the order of time; and what the agents could touch, and how their runs would be undone.
It begins an hour before the first sign of a finding, a day ago for an agent, and where a run began; --since and --until say otherwise.`,
		Example: "  countersign incident open fnd_… --reason 'paid to a changed account'\n  countersign incident open --agent invoice-checker --since 6h --reason 'key in a public repository'"}
	cmd.Flags().StringVar(&s.Agent, "agent", "", "all that this agent did")
	cmd.Flags().StringVar(&s.Run, "run", "", "this run")
	cmd.Flags().StringVar(&s.Title, "title", "", "what it is about")
	cmd.Flags().StringVar(&s.Severity, "severity", "", "info, low, medium, high or critical (default: the finding's, or high)")
	cmd.Flags().StringVar(&since, "since", "", "when it began: how long ago (6h, 2d), a day or a time")
	cmd.Flags().StringVar(&until, "until", "", "when it ended, likewise (default: it goes on)")
	fixed(cmd, "severity", "info", "low", "medium", "high", "critical")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) (err error) {
		if len(args) == 1 {
			s.Finding = args[0]
		}
		for _, t := range []struct {
			flag, text string
			to         *time.Time
		}{{"--since", since, &s.Since}, {"--until", until, &s.Until}} {
			if t.text != "" {
				if *t.to, err = moment(t.flag, t.text, time.Now()); err != nil {
					return err
				}
			}
		}
		i, err := c.OpenIncident(ctx, s)
		if err != nil {
			return err
		}
		return a.did(i, "incident %s is open: %s", i.ID, i.Title)
	})
	return cmd
}

func (a *app) incidentList() *cobra.Command {
	var state string
	var limit int
	cmd := &cobra.Command{Use: "list", Short: "List incidents, the latest first", Args: operands()}
	cmd.Flags().StringVar(&state, "state", "", "open or closed (default: both)")
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "at most so many")
	fixed(cmd, "state", "open", "closed")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		found, err := c.Incidents(ctx, state, "", limit)
		if err != nil {
			return err
		}
		return list(a, found, "no incidents",
			column[client.Incident]{"ID", func(i client.Incident) string { return i.ID }, nil},
			column[client.Incident]{"SEVERITY", func(i client.Incident) string { return i.Severity }, func(i client.Incident) string { return severityColour(i.Severity) }},
			column[client.Incident]{"STATE", func(i client.Incident) string { return i.State }, nil},
			column[client.Incident]{"OPENED", func(i client.Incident) string { return ago(i.Opened) }, nil},
			column[client.Incident]{"BY", func(i client.Incident) string { return i.OpenedBy }, nil},
			column[client.Incident]{"TITLE", func(i client.Incident) string { return i.Title }, nil})
	})
	return cmd
}

func (a *app) incidentShow() *cobra.Command {
	var contents bool
	var last int
	cmd := &cobra.Command{Use: "show ID", Short: "Show what belongs to an incident", Args: operands("ID"), ValidArgsFunction: a.completeFirst(incidentIDs)}
	cmd.Flags().BoolVar(&contents, "contents", false, "with arguments, prompts and answers, as far as you may see them; that you saw them is recorded")
	cmd.Flags().IntVarP(&last, "limit", "n", 40, "how many entries of the timeline, the latest")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		v, err := c.Incident(ctx, args[0], contents)
		if err != nil {
			return err
		}
		return a.show(v, incidentRows(v, last)...)
	})
	return cmd
}

// incidentRows says an incident in lines.
func incidentRows(v client.IncidentView, last int) []field {
	closed, more := "", ""
	if !v.Closed.IsZero() {
		closed = ago(v.Closed) + " by " + v.ClosedBy + ": " + v.Conclusion
	}
	if v.More {
		more = "; more than these: narrow it with --since and --until"
	}
	k := v.Account
	return []field{
		row("incident", v.Title), row("id", v.ID), painted("severity", v.Severity, severityColour(v.Severity)), row("state", v.State), row("finding", v.Finding),
		row("opened", ago(v.Opened)+" by "+v.OpenedBy+": "+v.Reason), row("closed", closed),
		row("log", fmt.Sprintf("%d events, %s to %s%s", k.Events, k.From.Format(time.RFC3339), k.To.Format(time.RFC3339), more)),
		row("agents", each(k.Agents, func(x client.IncidentAgent) string { return x.Name + ": " + tally(x.Tally) })),
		row("credentials", each(k.Credentials, func(x client.IncidentCredential) string {
			return x.ID + ": " + tally(x.Tally) + ", from " + strings.Join(x.Remotes, ", ")
		})),
		row("runs", each(k.Runs, func(x client.IncidentRun) string { return x.ID + ": " + tally(x.Tally) })),
		row("touched", each(k.Touched, func(x client.TouchedObject) string {
			return fmt.Sprintf("%s: %s, %d may have changed it (%s)", x.Object, counted(x.Calls, "call", "calls"), x.Effects, strings.Join(x.Tools, ", "))
		})),
		row("effects", each(k.Effects, func(x client.IncidentEffect) string {
			return strings.TrimSpace(x.At.Format(time.RFC3339) + " " + x.ID + " " + x.Tool + " " + x.Status + " " + strings.Join(x.Objects, ", "))
		})),
		row("approvals", each(k.Approvals, func(x client.IncidentApproval) string {
			return x.ID + " " + x.Tool + ": " + strings.Join(mapped(x.Steps, func(s client.IncidentStep) string { return s.Act + " by " + s.By }), ", ")
		})),
		row("undo", each(v.Undo, undoLine)),
		row("reach", each(v.ReachNow, func(t client.ReachTree) string {
			return fmt.Sprintf("%s: %d tools of %d connections, %d of them irreversible", t.Agent, t.Reach.Tools, t.Reach.Connections, t.Reach.Irreversible)
		})),
		row("notes", each(v.Notes, func(n client.IncidentNote) string { return n.At.Format(time.RFC3339) + " " + n.By + ": " + n.Text })),
		row("timeline", each(k.Timeline[max(0, len(k.Timeline)-last):], func(e client.IncidentEntry) string {
			return e.At.Format(time.RFC3339) + " " + e.By + " " + e.What
		})),
		row("contents", each(v.Contents, func(x client.IncidentContent) string { return x.Event + " " + x.Name + ": " + brief(x.Text) })),
	}
}

func mapped[T any](list []T, fn func(T) string) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = fn(v)
	}
	return out
}

func each[T any](list []T, fn func(T) string) string { return strings.Join(mapped(list, fn), "\n") }

func tally(t client.Tally) string {
	text := fmt.Sprintf("%s, %d may have changed something", counted(t.Calls, "call", "calls"), t.Effects)
	for _, part := range []struct {
		n    int
		word string
	}{{t.Denied, "denied"}, {t.Held, "held"}, {t.Failed, "failed"}, {t.Unknown, "unknown"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.word)
		}
	}
	return text
}

func undoLine(u client.IncidentUndo) string {
	if u.Plan == nil {
		return u.Run + ": " + u.Why
	}
	can, cannot := 0, 0
	for _, s := range u.Plan.Steps {
		if s.State == "planned" {
			can++
		} else {
			cannot++
		}
	}
	return fmt.Sprintf("%s: %d can be undone, %d cannot; countersign undo --run %s --plan", u.Run, can, cannot, u.Run)
}

func (a *app) incidentNote() *cobra.Command {
	cmd := &cobra.Command{Use: "note ID TEXT", Short: "Add a note to an incident", Args: operands("ID", "TEXT"), ValidArgsFunction: a.completeFirst(incidentIDs),
		Example: "  countersign incident note inc_… 'the bank was called at 9:40'"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		n, err := c.NoteIncident(ctx, args[0], args[1])
		if err != nil {
			return err
		}
		return a.did(n, "noted")
	})
	return cmd
}

func (a *app) incidentClose() *cobra.Command {
	cmd := &cobra.Command{Use: "close ID --reason TEXT", Short: "Close an incident; the reason is its conclusion", Args: operands("ID"), ValidArgsFunction: a.completeFirst(incidentIDs),
		Example: "  countersign incident close inc_… --reason 'all payments were reversed, the key was replaced'"}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		i, err := c.CloseIncident(ctx, args[0])
		if err != nil {
			return err
		}
		return a.did(i, "incident %s is closed", i.ID)
	})
	return cmd
}

func (a *app) incidentExport() *cobra.Command {
	var out string
	var contents bool
	cmd := &cobra.Command{Use: "export ID --out FILE", Short: "Write an incident as one signed file with proofs", Args: operands("ID"), ValidArgsFunction: a.completeFirst(incidentIDs),
		Long: `Writes a tar archive: the account as JSON, and of each of its events the proof that it is in the log. Anybody verifies it with
countersign incident verify FILE --key KEY, without network and without us. --contents adds arguments, prompts and answers; that they were seen is recorded.`,
		Example: "  countersign incident export inc_… --out incident.tar --reason 'for the insurer'"}
	cmd.Flags().StringVar(&out, "out", "", "the file to write; it must not exist")
	cmd.Flags().BoolVar(&contents, "contents", false, "with arguments, prompts and answers")
	_ = cmd.MarkFlagRequired("out")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var n int64
		if err := a.waiting("collecting events and their proofs", func() (err error) {
			body, err := c.ExportIncident(ctx, args[0], contents)
			if err != nil {
				return err
			}
			n, err = writeNew(out, body)
			return err
		}); err != nil {
			return err
		}
		return a.did(struct {
			ID    string `json:"id"`
			File  string `json:"file"`
			Bytes int64  `json:"bytes"`
		}{args[0], out, n}, "%s holds the incident; verify it anywhere with: countersign incident verify %s --key KEY", out, out)
	})
	return cmd
}

// writeNew writes body to a file that does not exist, and closes it.
func writeNew(name string, body io.ReadCloser) (int64, error) {
	defer body.Close()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, body)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, errors.Join(err, os.Remove(name))
	}
	return n, nil
}

func (a *app) incidentVerify() *cobra.Command {
	var key string
	cmd := &cobra.Command{Use: "verify FILE", Short: "Verify an incident's file without network; exit 1 if a byte was changed", Args: operands("FILE"),
		Long: `Asks no server. By the log's public key (countersign log key show, noted earlier) it shows that no byte of the file was changed, that each event is in
the log, that the account is what follows from these events, and that contents are what the events committed to. What was changed is named with its place.
Without --key the file is only shown to belong together.`,
		Example: "  countersign incident verify incident.tar --key countersign.example/log+1a2b3c4d+A…"}
	cmd.Flags().StringVar(&key, "key", "", "the log's first key (vkey), or a file with it")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		trusted, err := keyText(key)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		s, err := account.Verify(b, trusted)
		if err != nil {
			return fmt.Errorf("%s is not what was exported: %w", args[0], err)
		}
		trust := "the key you gave"
		if !s.Trusted {
			trust = "its own key: give --key to know whose it is"
		}
		return a.show(s, painted("verified", args[0], green), row("incident", s.ID+" "+s.Title), row("log", s.Origin+", by "+trust), row("exported", s.Exported.Format("2006-01-02 15:04 UTC")),
			row("events", fmt.Sprintf("%d, each in the log; the account follows from them", s.Events)), row("contents", fmt.Sprintf("%d, each as its event committed to it", s.Contents)))
	}
	return cmd
}
