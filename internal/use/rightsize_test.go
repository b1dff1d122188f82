package use_test

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/use"
)

const window = 9 * 24 * time.Hour

// proposed makes proposals and returns them by kind of one grant.
func proposed(t *testing.T, s *use.Service, agent, grant string) map[string]use.Proposal {
	t.Helper()
	all, _, err := s.Propose(ctx, fiona, agent, window)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]use.Proposal{}
	for _, p := range all {
		if p.Grant == grant {
			out[p.Kind] = p
		}
	}
	return out
}

func (w *world) open(s *use.Service, object string) []findings.Finding {
	w.t.Helper()
	if _, _, err := s.Uses(ctx, use.Query{}); err != nil { // it has read everything then
		w.t.Fatal(err)
	}
	found, err := w.finds.List(ctx, findings.Query{Status: findings.Open, Object: object})
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

func pay(cents int, currency string) string {
	return fmt.Sprintf(`{"invoice_id":"i","amount_cents":%d,"currency":%q}`, cents, currency)
}

// used is a world with ten days of use.
func used(t *testing.T, dsn string) (*world, *use.Service) {
	w := open(t, dsn)
	w.base()
	w.grant(policy.Grant{Name: "idle", Agent: "payer", Connection: "helpdesk", Tools: []string{"send_email"}})
	w.call(day0, "writer", "helpdesk/send_email", `{"to":"x"}`)
	for i := range 12 {
		w.call(day0.Add(time.Duration(48+i)*time.Hour), "payer", "ledger/pay_invoice", pay(100+i*37, []string{"EUR", "CHF"}[i%2]))
	}
	w.set(day0.Add(10 * 24 * time.Hour))
	return w, w.follower(use.Options{Findings: w.finds})
}

func TestRightsizing(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w, s := used(t, dsn)
		if p := proposed(t, s, "payer", "idle"); len(p) != 1 || len(p[use.Remove].After) != 0 || p[use.Remove].Refused != 0 || p[use.Remove].Calls != 12 {
			t.Errorf("%+v", p)
		}
		all := proposed(t, s, "payer", "pays")
		if p := all[use.Tools]; len(p.After) != 1 || !slices.Equal(p.After[0].Tools, []string{"pay_invoice"}) || !strings.Contains(p.Diff, "-tools: pay_invoice, list_invoices\n+tools: pay_invoice\n") {
			t.Errorf("%+v", p)
		}
		if p := all[use.Stage]; len(p.After) != 1 || p.After[0].When != `principal in Stage::"production"` || p.Refused != 0 {
			t.Errorf("%+v", p)
		}
		if p := all[use.Expiry]; len(p.After) != 1 || p.After[0].Expires.IsZero() {
			t.Errorf("%+v", p)
		}
		p := all[use.Arguments]
		if len(p.After) != 2 || p.After[0].Name != "pays" || p.After[1].Name != "pays.pay_invoice" || !strings.Contains(p.After[1].When, "context.args.amount_cents >= 100 && context.args.amount_cents <= 510") ||
			!strings.Contains(p.After[1].When, `["CHF", "EUR"].contains(context.args.currency)`) || p.Refused != 0 || p.Calls != 12 {
			t.Errorf("%+v", p)
		}

		// Tried, nothing is refused, and it is noted what would be.
		if _, err := s.Try(ctx, fiona, "let us see", p.ID); err != nil {
			t.Fatal(err)
		}
		now := w.clock()
		inside, outside := w.call(now.Add(time.Hour), "payer", "ledger/pay_invoice", pay(500, "EUR")), w.call(now.Add(2*time.Hour), "payer", "ledger/pay_invoice", pay(4000, "EUR"))
		if inside.Decision.Shadow != nil || !slices.Equal(outside.Decision.Shadow, []string{"pays"}) || outside.Decision.Effect != "allow" {
			t.Errorf("%+v %+v", inside.Decision, outside.Decision)
		}
		if p, err := s.Proposal(ctx, p.ID); err != nil || p.State != use.Tried || p.WouldRefuse != 1 || !p.LastRefusal.Equal(now.Add(2*time.Hour)) {
			t.Errorf("%+v %v", p, err)
		}

		// It is not accepted over the head of what came since.
		if _, err := s.Accept(ctx, fiona, "", p.ID, false); !errors.Is(err, use.ErrNewUse) || !strings.Contains(err.Error(), outside.ID) {
			t.Errorf("%v", err)
		}
		if got, err := s.Accept(ctx, fiona, "all the same", p.ID, true); err != nil || got.State != use.Accepted {
			t.Fatal(got, err)
		}
		if _, err := s.Accept(ctx, fiona, "", p.ID, true); !errors.Is(err, use.ErrState) {
			t.Errorf("twice: %v", err)
		}
		w.set(now.Add(24 * time.Hour))
		now = w.clock()
		if ev := w.call(now.Add(time.Minute), "payer", "ledger/pay_invoice", pay(300, "CHF")); ev.Decision.Effect != "allow" || ev.Decision.Shadow != nil {
			t.Errorf("%+v", ev.Decision)
		}
		if len(w.open(s, "grant/pays")) != 0 {
			t.Error("a finding about nothing")
		}
		// What the policies refuse is not because of it.
		w.call(now.Add(2*time.Minute), "payer", "ledger/pay_invoice", pay(3000, "XXX"))
		if found := w.open(s, "grant/pays"); len(found) != 0 {
			t.Errorf("%+v", found)
		}
		refused := w.call(now.Add(3*time.Minute), "payer", "ledger/pay_invoice", pay(4000, "EUR"))
		if refused.Decision.Effect != "deny" {
			t.Fatalf("%+v", refused.Decision)
		}
		found := w.open(s, "grant/pays")
		if len(found) != 1 || !strings.Contains(found[0].Detail, "countersign grant rightsize revert "+p.ID) || !slices.Equal(found[0].Events, []string{refused.ID}) {
			t.Fatalf("%+v", found)
		}
		// Reading all again, or another replica, tells of it no second time.
		if err := w.finds.Close(ctx, fiona, found[0].ID, "we know"); err != nil {
			t.Fatal(err)
		}
		other := w.follower(use.Options{Findings: w.finds})
		if found := w.open(other, "grant/pays"); len(found) != 0 {
			t.Errorf("told again: %+v", found)
		}
		w.call(now.Add(4*time.Minute), "payer", "ledger/pay_invoice", pay(4001, "EUR"))
		if found := w.open(s, "grant/pays"); len(found) != 1 {
			t.Errorf("%+v", found)
		}

		if got, err := s.Revert(ctx, fiona, "it is needed", p.ID); err != nil || got.State != use.Reverted {
			t.Fatal(got, err)
		}
		if ev := w.call(now.Add(5*time.Minute), "payer", "ledger/pay_invoice", pay(4000, "EUR")); ev.Decision.Effect != "allow" {
			t.Errorf("%+v", ev.Decision)
		}
		if g, err := w.policy.Grants(ctx, "payer"); err != nil || len(g) != 2 || !g[1].Same(p.Before) {
			t.Errorf("%+v %v", g, err)
		}
		if found := w.open(s, "grant/pays"); len(found) != 0 {
			t.Errorf("still open: %+v", found)
		}
	})
}

// A tool that a right-sizing took does not exist for the agent any more: whoever asks
// for it is refused without a decision, and the right is offered back all the same.
func TestWhatIsHiddenIsOfferedBack(t *testing.T) {
	w := open(t, storagetest.SQLite(t))
	w.base()
	s := w.follower(use.Options{Findings: w.finds})
	for n := range 3 {
		w.call(day0.Add(time.Duration(n)*time.Hour), "payer", "ledger/list_invoices", `{}`)
	}
	later := day0.AddDate(0, 0, 100)
	w.set(later)
	all, _, err := s.Propose(ctx, fiona, "payer", 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(all, func(p use.Proposal) bool { return p.Grant == "pays" && p.Kind == "remove" })
	if at < 0 {
		t.Fatalf("%+v", all)
	}
	p, err := s.Accept(ctx, fiona, "", all[at].ID, true)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(minutes int, code, connection, tool string) {
		t.Helper()
		_, err := w.log.Append(ctx, audit.Event{Type: audit.CallRefused, Actor: audit.System, Agent: "payer", Team: "finance", Stage: "production", Connection: connection, Tool: tool, Time: later.Add(time.Duration(minutes) * time.Minute),
			Detail: fmt.Appendf(nil, `{"code":%q,"reason":"so to the agent it does not exist"}`, code)})
		if err != nil {
			t.Fatal(err)
		}
	}
	refused(1, "unknown_tool", "helpdesk", "send_email") // it never had that
	refused(2, "unknown_tool", "ledger", "invented")
	refused(3, "bad_arguments", "ledger", "pay_invoice")
	if found := w.open(s, "grant/pays"); len(found) != 0 {
		t.Fatalf("%+v", found)
	}
	refused(4, "unknown_tool", "ledger", "pay_invoice")
	if found := w.open(s, "grant/pays"); len(found) != 1 || !strings.Contains(found[0].Detail, "countersign grant rightsize revert "+p.ID) || !strings.Contains(found[0].Title, "refused ledger/pay_invoice,") {
		t.Fatalf("%+v", found)
	}
	refused(5, "unknown_connection", "ledger", "")
	if found := w.open(s, "grant/pays"); len(found) != 1 || found[0].Count != 2 {
		t.Fatalf("%+v", found)
	}
	w.put("shut", `@id("shut") forbid (principal, action == Action::"ledger/list_invoices", resource);`)
	refused(6, "unknown_tool", "ledger", "list_invoices") // somebody forbids it since
	if found := w.open(s, "grant/pays"); len(found) != 1 || found[0].Count != 2 {
		t.Errorf("%+v", found)
	}
}

func TestRightsizingRefuses(t *testing.T) {
	w, s := used(t, storagetest.SQLite(t))
	all := proposed(t, s, "payer", "pays")
	if _, err := s.Accept(ctx, fiona, "", "pays:nothing", false); !errors.Is(err, use.ErrNoProposal) {
		t.Errorf("%v", err)
	}
	if _, err := s.Revert(ctx, fiona, "", all[use.Tools].ID); !errors.Is(err, use.ErrState) {
		t.Errorf("what was not accepted: %v", err)
	}
	for _, d := range []time.Duration{500 * 24 * time.Hour, -time.Hour} {
		if _, _, err := s.Propose(ctx, fiona, "payer", d); !errors.Is(err, use.ErrWindow) {
			t.Errorf("%v: %v", d, err)
		}
	}
	// A grant that is younger than the window, or was not watched for as long,
	// is not judged.
	if p, _, err := s.Propose(ctx, fiona, "payer", 11*24*time.Hour); err != nil || len(p) != 0 {
		t.Errorf("%+v %v", p, err)
	}
	proposed(t, s, "payer", "pays")
	// The grant changed since.
	w.grant(policy.Grant{Name: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"pay_invoice"}})
	for _, do := range []func() (use.Proposal, error){
		func() (use.Proposal, error) { return s.Accept(ctx, fiona, "", all[use.Tools].ID, false) },
		func() (use.Proposal, error) { return s.Try(ctx, fiona, "", all[use.Tools].ID) },
	} {
		if _, err := do(); !errors.Is(err, use.ErrStale) {
			t.Errorf("%v", err)
		}
	}
	// One that is dropped is not made again; one that was reverted may be.
	idle := proposed(t, s, "payer", "idle")[use.Remove]
	if _, err := s.Drop(ctx, fiona, "it is for the end of the year", idle.ID); err != nil {
		t.Fatal(err)
	}
	if p := proposed(t, s, "payer", "idle"); len(p) != 0 {
		t.Errorf("%+v", p)
	}
	mails := proposed(t, s, "writer", "mails")
	if _, ok := mails[use.Remove]; !ok {
		t.Fatalf("%+v", mails)
	}
	if _, err := s.Accept(ctx, fiona, "", mails[use.Remove].ID, false); err != nil {
		t.Fatal(err)
	}
	w.grant(policy.Grant{Name: "mails", Agent: "writer", Connection: "helpdesk", Tools: []string{"*"}})
	if _, err := s.Revert(ctx, fiona, "", mails[use.Remove].ID); !errors.Is(err, use.ErrStale) {
		t.Errorf("over another grant of the name: %v", err)
	}
	if err := w.policy.RevokeGrant(ctx, fiona, "", "mails"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Revert(ctx, fiona, "", mails[use.Remove].ID); err != nil {
		t.Error(err)
	}
}

// Whatever was used, no proposal refuses any of it.
func TestProposalsNeverRefuseWhatWasUsed(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	kinds := map[string]int{}
	for round := range 6 {
		w := open(t, storagetest.SQLite(t))
		w.put("names", `@id("names") forbid (principal == Agent::"payer", action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents == 1 || context.args has rate && context.args.rate == decimal("0.5")
			|| context.args has currency && context.args.currency == "no" || context.args has urgent && context.args.urgent && context.args.invoice_id == "no" || context.args has tags && context.args.tags.contains("no")
			|| context.args has to && context.args.to has iban && context.args.to.iban == "no" };`)
		w.grant(policy.Grant{Name: "g", Agent: "payer", Connection: "ledger", Tools: [][]string{{"*"}, {"pay_invoice", "list_invoices"}}[round%2]})
		w.call(day0, "writer", "helpdesk/send_email", `{"to":"x"}`)
		var calls []policy.Request
		for i := range 10 + rnd.IntN(30) {
			args := randomArgs(rnd, round)
			at := day0.Add(time.Duration(30+i) * time.Hour)
			if w.call(at, "payer", "ledger/pay_invoice", args).Decision.Effect == "allow" {
				calls = append(calls, policy.Request{Agent: policy.Agent{Name: "payer", Team: "finance", Stage: "production"}, Action: policy.Action{Connection: "ledger", Tool: "pay_invoice"}, Args: jsontext.Value(args), Now: at})
			}
		}
		w.set(day0.Add(10 * 24 * time.Hour))
		s := w.follower(use.Options{})
		for range 3 { // each on top of the one before
			made, _, err := s.Propose(ctx, fiona, "payer", window)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range made {
				kinds[p.Kind]++
				set, problems, err := policy.Compile(map[string]string{}, p.After, registry{}.ToolTypes())
				if err != nil || len(problems) > 0 || p.Refused != 0 {
					t.Fatalf("%v %v %d of %d refused\n%s", problems, err, p.Refused, p.Calls, p.Diff)
				}
				for _, c := range calls {
					if d := set.Decide(c); d.Effect != policy.Allow {
						t.Fatalf("%s\nrefuses %s: %s", p.Diff, c.Args, d.Reason)
					}
				}
			}
			if len(made) == 0 {
				break
			}
			if _, err := s.Accept(ctx, fiona, "", made[rnd.IntN(len(made))].ID, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if kinds[use.Arguments] < 4 || kinds[use.Tools] == 0 || kinds[use.Stage] == 0 {
		t.Errorf("too little was proposed: %v", kinds)
	}
}

func randomArgs(r *rand.Rand, few int) string {
	m := map[string]any{"invoice_id": fmt.Sprint("inv", r.IntN(3+few*8)), "amount_cents": r.Int64N(1<<(3+r.IntN(50))) - 1000}
	if r.IntN(4) > 0 {
		m["rate"] = float64(r.IntN(200000)-100000) / 10000
	}
	if r.IntN(3) > 0 {
		m["currency"] = []string{"EUR", "C\"HF\\", "é\u202e\n", "*"}[r.IntN(4)]
	}
	if r.IntN(3) > 0 {
		m["urgent"] = r.IntN(few+1) == 0
	}
	if r.IntN(2) == 0 {
		m["tags"] = []string{"a", "b", "c"}[:r.IntN(4)]
	}
	switch r.IntN(4) {
	case 0:
		m["to"] = map[string]any{}
	case 1:
		m["to"] = map[string]any{"iban": fmt.Sprint(r.IntN(4))}
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}
