package cli

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) logShow() *cobra.Command {
	var raw, full bool
	cmd := &cobra.Command{Use: "show EVENT", Short: "Show an event, its payloads and its place in the log", Args: operands("EVENT"),
		Example: "  countersign log show evt_…\n  countersign log show evt_… --raw | sha256sum"}
	cmd.Flags().BoolVar(&raw, "raw", false, "print the exact bytes that are hashed, and nothing else")
	cmd.Flags().BoolVar(&full, "full", false, "print payloads whole")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		e, err := c.LogEntry(ctx, args[0])
		if err != nil {
			return err
		}
		if raw {
			b, err := base64.StdEncoding.DecodeString(e.Record)
			if err == nil {
				_, err = a.stdout.Write(b)
			}
			return err
		}
		if err := a.show(e, entryRows(e)...); err != nil || a.output == "json" {
			return err
		}
		for _, p := range e.Payloads {
			a.printPayload(p, full)
		}
		return nil
	})
	return cmd
}

func entryRows(e client.Entry) []field {
	ev := e.Event
	rows := []field{row("event", ev.ID), row("type", ev.Type), row("time", ev.Time.Local().Format("2006-01-02 15:04:05.000000 -07:00")),
		row("actor", strings.TrimSpace(ev.Actor.Kind+" "+ev.Actor.Name)), row("on behalf of", actors(ev.OnBehalfOf)), row("agent", ev.Agent), row("owner", ev.Owner),
		row("team", ev.Team), row("stage", ev.Stage), row("credential", ev.Credential), row("remote", ev.Remote), row("client", ev.Client), row("run", ev.Run),
		row("call", ev.Call), row("tool", toolName(ev)), row("effect", ev.Effect), row("digest", ev.Digest), row("object", ev.Object)}
	if d := ev.Decision; d != nil {
		rows = append(rows, painted("decision", d.Effect, statusColour(d.Effect)), row("code", d.Code), row("policies", strings.Join(d.Policies, ", ")), row("grants", strings.Join(d.Grants, ", ")),
			row("why", d.Reason), row("policy version", d.Version), row("decided in", fmt.Sprintf("%d µs", d.Micros)))
	}
	if o := ev.Outcome; o != nil {
		rows = append(rows, painted("outcome", o.Status, statusColour(o.Status)), row("took", outcome(*o)))
		if o.FirstByte > 0 {
			rows = append(rows, row("first byte", millis(o.FirstByte)))
		}
		rows = append(rows, row("answer", fmt.Sprintf("%d bytes", o.Bytes)), row("answer digest", o.Digest))
	}
	return append(rows, row("labels", strings.Join(ev.Labels, ", ")), row("reason", ev.Reason), row("detail", indented(ev.Detail)),
		row("place", fmt.Sprintf("lane %d, number %d", e.Lane, e.SN)), row("chain", e.Chain))
}

func actors(list []client.Actor) string {
	var names []string
	for _, x := range list {
		names = append(names, x.Name)
	}
	return strings.Join(names, " -> ")
}

// shownPayload is how much of a payload is printed unless asked for all, in characters.
const shownPayload = 4000

func (a *app) printPayload(p client.Payload, full bool) {
	fmt.Fprintf(a.stdout, "\n%s %s\n", a.paint(a.stdout, bold, inert(p.Name, 0)), a.paint(a.stdout, dim, fmt.Sprintf("%d bytes, commitment %s", p.Size, p.Digest)))
	if p.Erased {
		fmt.Fprintln(a.stdout, a.paint(a.stdout, dim, "  (erased; the commitment stands)"))
		return
	}
	if p.Withheld {
		fmt.Fprintln(a.stdout, a.paint(a.stdout, dim, "  (your role does not see contents; an auditor, an operator or the agent's owner does)"))
		return
	}
	text, cut := inertLines(pretty(p.Body())), p.Cut
	if r := []rune(text); !full && len(r) > shownPayload {
		text, cut = string(r[:shownPayload]), true
	}
	fmt.Fprintln(a.stdout, "  "+strings.ReplaceAll(text, "\n", "\n  "))
	if cut {
		fmt.Fprintln(a.stdout, a.paint(a.stdout, dim, "  (cut; --full prints all that is kept)"))
	}
}
