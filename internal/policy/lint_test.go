package policy_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// linted is a world whose agents are registered and whose use is known.
func linted(t *testing.T, known time.Time, matched ...string) *world {
	t.Helper()
	db := storagetest.Open(t, storagetest.SQLite(t))
	w := &world{db: db, log: openLog(t, db), watch: storage.NewWatcher(db, slog.New(slog.DiscardHandler)), tools: &registry{tts: tools()}}
	agents := []policy.Agent{{Name: "payer", Team: "finance", Stage: "production"}, {Name: "clerk", Team: "finance", Stage: "staging"}}
	var err error
	w.Service, err = policy.New(db, w.log, w.watch, w.tools, policy.Options{
		Now: func() time.Time { return now }, All: func() []policy.Agent { return agents },
		Matched: func(context.Context, time.Time) (policy.Matched, error) {
			m := policy.Matched{Rules: map[string]bool{}, Known: known}
			for _, r := range matched {
				m.Rules[r] = true
			}
			return m, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.watch.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.watch.Stop)
	return w
}

func (w *world) lints(t *testing.T, trial policy.Trial, since time.Time) []string {
	t.Helper()
	found, err := w.Lint(ctx, trial, since)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, l := range found {
		out = append(out, strings.TrimSpace(l.Kind+" "+l.Policy+" "+strings.Join(l.By, ",")))
	}
	slices.Sort(out)
	return out
}

func TestLint(t *testing.T) {
	w := linted(t, time.Time{})
	const pay = `action == Action::"ledger/pay_invoice"`
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"fine": {`@id("a") permit (principal == Agent::"payer", ` + pay + `, resource) when { context.args.amount_cents < 100 };
			@id("b") forbid (principal, ` + pay + `, resource) when { context.args.amount_cents < 0 };
			@id("c") permit (principal, action == Action::"ledger/list_invoices", resource);`, nil},
		"says the same": {`@id("a") permit (principal in Team::"finance", action in Action::"effect:read", resource == Connection::"ledger");
			@id("b") permit (principal == Agent::"payer", action == Action::"ledger/list_invoices", resource) when { context.args has status };`, []string{"shadowed b policy a"}},
		"twice": {`@id("a") forbid (principal, ` + pay + `, resource) when { context.args.amount_cents > 1 };
			@id("b") forbid (principal, ` + pay + `, resource) when { context.args.amount_cents > 1 };`, []string{"shadowed b policy a"}},
		"another condition": {`@id("a") forbid (principal, ` + pay + `, resource) when { context.args.amount_cents > 1 };
			@id("b") forbid (principal, ` + pay + `, resource) when { context.args.amount_cents > 2 };`, nil},
		"forbidden anyway": {`@id("a") forbid (principal, action in Action::"effect:irreversible", resource);
			@id("b") permit (principal == Agent::"payer", ` + pay + `, resource) when { context.args.amount_cents > 2 };
			@id("c") @approval("finance") forbid (principal, ` + pay + `, resource) when { context.args.amount_cents > 2 };`, []string{"unreachable b policy a", "unreachable c policy a"}},
		"a hold is no forbid": {`@id("a") @approval("finance") forbid (principal, ` + pay + `, resource);
			@id("b") permit (principal == Agent::"payer", ` + pay + `, resource) when { context.args.amount_cents > 2 };`, nil},
		"other people": {`@id("a") @approval("finance") forbid (principal, ` + pay + `, resource);
			@id("b") @approval("board") forbid (principal, ` + pay + `, resource) when { context.args.amount_cents > 2 };`, nil},
		"nobody":          {`@id("a") permit (principal == Agent::"gone", ` + pay + `, resource) when { context.args.amount_cents > 2 };`, []string{"unreachable a"}},
		"never":           {`@id("a") forbid (principal, ` + pay + `, resource) when { false };`, []string{"unreachable a"}},
		"everything":      {`@id("a") permit (principal, action, resource);`, []string{"wide a"}},
		"a team":          {`@id("a") permit (principal in Team::"finance", action, resource);`, []string{"wide a"}},
		"anyone writes":   {`@id("a") permit (principal, action == Action::"helpdesk/send_email", resource);`, []string{"wide a"}},
		"does not parse":  {`permit (`, []string{"invalid"}},
		"a name too many": {`@id("a") forbid (principal, ` + pay + `, resource) when { context.args.amuont > 2 };`, []string{"invalid a"}},
		"apart": {`@id("a") permit (principal == Agent::"payer", ` + pay + `, resource) when { context.args.amount_cents > 2 };
			@id("b") permit (principal in Team::"finance", action == Action::"helpdesk/send_email", resource);
			@id("sod") @apart("helpdesk/send_email") forbid (principal, ` + pay + `, resource) when { false };`, []string{"conflict sod policy a,policy b"}},
		"apart from what is not there": {`@id("sod") @apart("helpdesk/send_mail") forbid (principal, ` + pay + `, resource) when { false };`, []string{"invalid sod"}},
		"apart on a permit":            {`@id("sod") @apart("helpdesk/send_email") permit (principal, ` + pay + `, resource) when { false };`, []string{"invalid sod"}},
	} {
		if got := w.lints(t, policy.Trial{Files: map[string]string{"f": c.text}}, time.Time{}); !slices.Equal(got, c.want) && len(got)+len(c.want) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, err := w.Lint(ctx, policy.Trial{Revoke: []string{"nothing"}}, time.Time{}); !errors.Is(err, policy.ErrNoGrant) {
		t.Errorf("%v", err)
	}
	// An annotation of somebody's own is none of ours.
	if got := w.lints(t, policy.Trial{Files: map[string]string{"f": `@part("2") @start("now") @id("a") forbid (principal, ` + pay + `, resource);`}}, time.Time{}); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestLintOfWhatIsSaved(t *testing.T) {
	w := linted(t, now.Add(-50*time.Hour), "grant:used")
	w.put(t, "sod", `@id("sod") @apart("effect:write") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { false };`)
	for _, g := range []policy.Grant{
		{Name: "star", Agent: "payer", Connection: "ledger", Tools: []string{"*"}, Expires: now.Add(time.Hour)},
		{Name: "forever", Agent: "payer", Connection: "ledger", Tools: []string{"pay_invoice"}},
		{Name: "used", Agent: "clerk", Connection: "helpdesk", Tools: []string{"send_email"}},
		{Name: "mails", Agent: "payer", Connection: "helpdesk", Tools: []string{"send_email"}},
	} {
		if _, err := w.PutGrant(ctx, fiona, "", g); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"conflict sod grant forever,grant mails,grant star", "wide grant:forever", "wide grant:star"}
	if got := w.lints(t, policy.Trial{}, time.Time{}); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := w.Conflicts(); len(got) != 1 || got[0].Agent != "payer" || got[0].Other != "helpdesk/send_email" {
		t.Errorf("%+v", got)
	}
	// What is younger than the window, or not known for as long, is not found.
	for _, since := range []time.Time{now.Add(-time.Hour), now.Add(-60 * time.Hour)} {
		if got := w.lints(t, policy.Trial{}, since); !slices.Equal(got, want) {
			t.Errorf("%v: %q", since, got)
		}
	}
	more := append(slices.Clone(want), "unmatched grant:forever", "unmatched grant:mails", "unmatched grant:star")
	slices.Sort(more)
	if got := w.lints(t, policy.Trial{}, now); !slices.Equal(got, more) {
		t.Errorf("%q", got)
	}
}
