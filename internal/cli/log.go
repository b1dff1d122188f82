package cli

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) logCommand() *cobra.Command {
	return group("log", "Watch, search, trace and verify what happened", a.logTail(), a.logSearch(), a.logSearches(), a.logShow(), a.logTrace(), a.logRuns(), a.logRate(),
		a.logVerify(), a.logProve(), a.logExport(), a.logKey(), a.logStatus(), a.logAcceptRollback(), a.logRebuild(),
		a.logErase(), a.logHold(), a.logRetention())
}

// querySyntax is shown with every command that takes a query.
const querySyntax = `A query is made of fields (decision:deny, tool:ledger/*, agent:invoice-checker, run:…, type:…, status:failed), times (since:2h,
until:2027-01-31) and words or "several words" of events and payloads; -field:value and -word exclude (begin
such a query with -- so that it is not read as a flag). All must hold. @NAME stands for a saved search, @PERSON/NAME for one
that another person shares.
Fields: type decision status agent owner team stage connection tool effect run call actor object credential remote model policy
grant label.`

func (a *app) logTail() *cobra.Command {
	var last int
	cmd := &cobra.Command{Use: "tail [QUERY...]", Short: "Follow the log", Args: operands("[QUERY...]"), Long: "Prints the last events and then each new one, until interrupted. With -o json each is a line.\n\n" + querySyntax,
		Example: "  countersign log tail\n  countersign log tail decision:deny"}
	cmd.Flags().IntVarP(&last, "last", "n", 10, "begin with so many events of the past")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		query, err := c.ExpandQuery(ctx, args)
		if err != nil {
			return err
		}
		err = c.Tail(ctx, query, last, func(ev client.Event) error {
			if a.output == "json" {
				return a.printLine(ev)
			}
			_, err := fmt.Fprintln(a.stdout, a.eventLine(ev))
			return err
		})
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
	return cmd
}

// printLine writes v as one line of JSON.
func (a *app) printLine(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", b)
	return err
}

func (a *app) logSearch() *cobra.Command {
	var limit int
	var oldest, shared bool
	var name string
	cmd := &cobra.Command{Use: "search [QUERY...]", Short: "Search the log", Args: operands("[QUERY...]"), Long: "Finds events, the newest first.\n\n" + querySyntax,
		Example: "  countersign log search decision:deny since:1d\n  countersign log search 'tool:ledger/* \"iban changed\"'"}
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "at most so many")
	cmd.Flags().BoolVar(&oldest, "oldest", false, "the oldest first")
	cmd.Flags().StringVar(&name, "save", "", "keep the search under this name, for log search @NAME")
	cmd.Flags().BoolVar(&shared, "shared", false, "with --save: let others use it")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		query, err := c.ExpandQuery(ctx, args)
		if err != nil {
			return err
		}
		if err := a.save(ctx, c, name, query, shared); err != nil {
			return err
		}
		var found []client.Event
		var last client.Page
		err = a.waiting("searching", func() (err error) {
			found, last, err = searchAll(ctx, c, query, limit, oldest)
			return err
		})
		if err != nil {
			return err
		}
		if a.output == "json" {
			if found == nil {
				found = []client.Event{}
			}
			return a.printJSON(found)
		}
		for _, ev := range found {
			fmt.Fprintln(a.stdout, a.eventLine(ev))
		}
		switch {
		case len(found) == 0:
			fmt.Fprintln(a.stdout, "nothing found")
		case last.Next != "":
			fmt.Fprintln(a.stderr, a.paint(a.stderr, dim, fmt.Sprintf("there is more: -n %d", 10*limit)))
		}
		if last.Behind > 0 {
			a.warn("%d events are recorded but not yet searchable", last.Behind)
		}
		return nil
	})
	return cmd
}

// indexWait is how long a search waits for what was recorded just now.
const indexWait = 2 * time.Second

// searchAll searches again, for a moment, while the index is behind the log.
func searchAll(ctx context.Context, c *client.Client, query string, limit int, oldest bool) ([]client.Event, client.Page, error) {
	began := time.Now()
	for {
		found, last, err := search(ctx, c, query, limit, oldest)
		if err != nil || last.Behind == 0 || time.Since(began) > indexWait {
			return found, last, err
		}
		select {
		case <-ctx.Done():
			return nil, last, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// search gathers pages until there are limit events.
func search(ctx context.Context, c *client.Client, query string, limit int, oldest bool) (found []client.Event, last client.Page, err error) {
	cursor := ""
	for len(found) < limit {
		if last, err = c.SearchLog(ctx, query, cursor, min(limit-len(found), 1000), oldest); err != nil {
			return nil, last, err
		}
		found = append(found, last.Events...)
		if cursor = last.Next; cursor == "" {
			break
		}
	}
	return found, last, nil
}

// verbs say what an event of the line was, in one word, and its colour.
var verbs = map[string]struct{ word, colour string }{
	"call.intent": {"allowed", green}, "call.denied": {"DENIED", red}, "call.held": {"HELD", yellow}, "call.refused": {"REFUSED", red},
	"auth.refused": {"NO ENTRY", red}, "call.settled": {"settled", dim}, "upstream.used": {"reached", blue},
}

// eventLine is an event on one line. Everything in it may be foreign text.
func (a *app) eventLine(ev client.Event) string {
	word, colour := ev.Type, blue
	if v, ok := verbs[ev.Type]; ok {
		word, colour = v.word, v.colour
	}
	if ev.Type == "call.outcome" && ev.Outcome != nil {
		word, colour = ev.Outcome.Status, dim
		if ev.Outcome.Status != "succeeded" {
			colour = statusColour(ev.Outcome.Status)
		}
	}
	who, what := ev.Agent, toolName(ev)
	if who == "" || ev.Actor.Kind == "user" {
		who = ev.Actor.Name
	}
	if ev.Object != "" {
		what = ev.Object
	}
	return fmt.Sprintf("%s  %s %s %s %s  %s", a.paint(a.stdout, dim, ev.Time.Local().Format(time.TimeOnly)),
		a.paint(a.stdout, colour, padded(inert(word, 24), 9)), a.paint(a.stdout, bold, padded(inert(who, 24), 18)),
		padded(inert(what, 48), 26), inert(remark(ev), 160), a.paint(a.stdout, dim, inert(ev.ID, 0)))
}

func padded(s string, n int) string {
	if missing := n - len([]rune(s)); missing > 0 {
		return s + strings.Repeat(" ", missing)
	}
	return s
}

func toolName(ev client.Event) string {
	if ev.Tool == "" {
		return ev.Connection
	}
	return ev.Connection + "/" + ev.Tool
}

// remark is what else is worth knowing about an event.
func remark(ev client.Event) string {
	var parts []string
	if d := ev.Decision; d != nil {
		parts = append(parts, decided(*d))
	}
	if o := ev.Outcome; o != nil {
		parts = append(parts, outcome(*o))
	}
	if code, reason := refusal(ev.Detail); reason != "" {
		parts = append(parts, code+": "+reason)
	}
	if ev.Reason != "" {
		parts = append(parts, "because "+ev.Reason)
	}
	var said []string
	for _, p := range parts {
		if p != "" {
			said = append(said, p)
		}
	}
	return strings.Join(said, "; ")
}

// by names what determined a decision.
func by(d client.Decision) string {
	var names []string
	names = append(append(names, d.Policies...), d.Grants...)
	if len(names) == 0 {
		return ""
	}
	return "by " + strings.Join(names, ", ")
}

// decided says what determined a decision, and why a call was refused. Most
// reasons name the policies already.
func decided(d client.Decision) string {
	b := by(d)
	if d.Effect == "allow" || d.Reason == "" {
		return b
	}
	for _, p := range d.Policies {
		if !strings.Contains(d.Reason, p) {
			return strings.TrimPrefix(b+": "+d.Reason, ": ")
		}
	}
	return strings.TrimPrefix(strings.TrimPrefix(d.Reason, "denied "), "because ")
}

// outcome says how a call ended.
func outcome(o client.Outcome) string {
	parts := []string{millis(o.Micros)}
	if o.Code != 0 && o.Code != 200 {
		parts = append(parts, fmt.Sprint(o.Code))
	}
	if u := o.Usage; u != nil {
		parts = append(parts, fmt.Sprintf("%s, %d tokens in, %d out", u.Model, u.Input, u.Output))
		if cost := costOf(*u); cost != "" {
			parts = append(parts, cost)
		}
	}
	if o.Error != "" {
		parts = append(parts, o.Error)
	}
	return strings.Join(parts, ", ")
}

// costOf is what a model's call cost, and whether its price is a guess.
func costOf(u client.Usage) string {
	if u.Cost == 0 {
		return ""
	}
	text := amount("money", u.Cost) + " " + u.Currency
	if strings.HasPrefix(u.Priced, "dearest") {
		text += " (no price known: the dearest)"
	}
	return text
}

func millis(micros int64) string {
	switch {
	case micros < 10_000:
		return fmt.Sprintf("%.1f ms", float64(micros)/1000)
	case micros < 10_000_000:
		return fmt.Sprintf("%d ms", micros/1000)
	}
	return fmt.Sprintf("%d s", micros/1_000_000)
}

// refusal reads the detail of an event that refused something.
func refusal(detail jsontext.Value) (code, reason string) {
	if len(detail) == 0 {
		return "", ""
	}
	var d struct{ Code, Reason string }
	if err := json.Unmarshal(detail, &d, json.MatchCaseInsensitiveNames(true)); err != nil {
		return "", ""
	}
	return d.Code, d.Reason
}

func (a *app) printVerification(v client.Verification) {
	for _, p := range v.Problems {
		fmt.Fprintf(a.stdout, "%s lane %d, event number %d %s: %s\n", a.paint(a.stdout, red, "CHANGED"), p.Lane, p.SN, p.Event, inert(p.Message, 0))
	}
	erased := ""
	if v.Erased > 0 {
		erased = fmt.Sprintf(", %d payloads erased", v.Erased)
	}
	summary := fmt.Sprintf("%d events and %d payloads in %d lanes verified in %d ms%s", v.Events, v.Payloads, v.Lanes, v.Millis, erased)
	if v.OK {
		a.done("the log is whole: %s", summary)
		return
	}
	fmt.Fprintf(a.stdout, "the log is not what was written (%s): keep the database as evidence, and compare with a backup\n", summary)
}

func (a *app) logRebuild() *cobra.Command {
	cmd := &cobra.Command{Use: "rebuild", Short: "Build the search index again from the log", Args: operands(), Long: "The index is derived: nothing is lost. Searches are incomplete until it has caught up."}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if err := a.waiting("rebuilding", func() error { return c.RebuildLog(ctx) }); err != nil {
			return err
		}
		return a.did(struct {
			ID string `json:"id"`
		}{"search"}, "the search index is being built again")
	})
	return cmd
}
