package use_test

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/use"
)

var (
	ctx   = context.Background()
	fiona = audit.Person("usr_1", "fiona")
	// day0 is the day on which the calls of a test begin.
	day0 = time.Date(2026, 10, 5, 9, 0, 0, 0, time.UTC)
)

type registry struct{}

func (registry) ToolTypes() []policy.ToolType {
	pay := `{"type":"object","properties":{"invoice_id":{"type":"string"},"amount_cents":{"type":"integer"},"rate":{"type":"number"},"currency":{"type":"string"},
		"urgent":{"type":"boolean"},"tags":{"type":"array","items":{"type":"string"}},"to":{"type":"object","properties":{"iban":{"type":"string"}}}},"required":["invoice_id","amount_cents"]}`
	return []policy.ToolType{
		{Connection: "ledger", Kind: "mcp", Tool: "pay_invoice", Effect: "irreversible", InputSchema: jsontext.Value(pay)},
		{Connection: "ledger", Kind: "mcp", Tool: "list_invoices", Effect: "read", InputSchema: jsontext.Value(`{"type":"object","properties":{"status":{"type":"string"}}}`)},
		{Connection: "helpdesk", Kind: "mcp", Tool: "send_email", Effect: "write", InputSchema: jsontext.Value(`{"type":"object","properties":{"to":{"type":"string"}},"required":["to"]}`)},
	}
}

// world is a store with policies, a log and a clock.
type world struct {
	t      testing.TB
	db     *storage.DB
	log    *audit.Log
	watch  *storage.Watcher
	policy *policy.Service
	finds  *findings.Service

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) set(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = t
}

func open(t testing.TB, dsn string) *world {
	t.Helper()
	db := storagetest.Open(t, dsn)
	log, err := audit.Open(ctx, db, audit.Options{Redactor: inspection.New(), Keeper: audittest.Keeper("k")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(ctx) })
	w := &world{t: t, db: db, log: log, watch: storage.NewWatcher(db, slog.New(slog.DiscardHandler)), finds: findings.New(db, log, nil), now: day0}
	w.policy, err = policy.New(db, log, w.watch, registry{}, policy.Options{Now: w.clock, Agents: agent})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.watch.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.watch.Stop)
	return w
}

func agent(name string) (policy.Agent, bool) {
	return policy.Agent{Name: name, Team: "finance", Stage: "production"}, true
}

func (w *world) follower(o use.Options) *use.Service {
	w.t.Helper()
	o.Policy, o.Now, o.Agents = w.policy, w.clock, agent
	s, err := use.New(w.db, w.log, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) put(name, text string) {
	w.t.Helper()
	if _, err := w.policy.PutPolicies(ctx, fiona, "because", name, text); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) grant(g policy.Grant) {
	w.t.Helper()
	if _, err := w.policy.PutGrant(ctx, fiona, "because", g); err != nil {
		w.t.Fatal(err)
	}
}

// call records a call as the line does, decided by the policies in force.
func (w *world) call(at time.Time, agent, tool, args string) audit.Event {
	w.t.Helper()
	connection, name, _ := strings.Cut(tool, "/")
	who := policy.Agent{Name: agent, Team: "finance", Stage: "production"}
	d := w.policy.Decide(policy.Request{Agent: who, Action: policy.Action{Connection: connection, Tool: name}, Args: jsontext.Value(args), Now: at})
	ev := audit.Event{Actor: audit.System, Agent: agent, Team: "finance", Stage: "production", Connection: connection, Tool: name, Call: "call_x", Time: at, Type: audit.CallDenied,
		Decision: &audit.Decision{Effect: d.Effect.String(), Grants: d.Grants, Policies: d.Policies, Shadow: d.Shadow}}
	payload := audit.Payload{Name: "arguments", Body: []byte(args)}
	if d.Effect == policy.Allow {
		ev.Type = audit.CallIntent
		r, err := w.log.Intent(ctx, ev, payload)
		if err != nil {
			w.t.Fatal(err)
		}
		w.log.Outcome(r, audit.Event{Agent: agent, Call: "call_x", Outcome: &audit.Outcome{Status: audit.Succeeded}})
		ev.ID = r.Event()
		return ev
	}
	if d.Effect == policy.Hold {
		ev.Type = audit.CallHeld
	}
	ref, err := w.log.Append(ctx, ev, payload)
	if err != nil {
		w.t.Fatal(err)
	}
	ev.ID = ref.ID
	return ev
}

const basePolicy = `@id("big") @approval("finance") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents > 5000 };
@id("never") forbid (principal == Agent::"payer", action == Action::"ledger/pay_invoice", resource) when { context.args has currency && context.args.currency == "XXX" };`

func (w *world) base() {
	w.put("base", basePolicy)
	w.grant(policy.Grant{Name: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"pay_invoice", "list_invoices"}})
	w.grant(policy.Grant{Name: "mails", Agent: "writer", Connection: "helpdesk", Tools: []string{"send_email"}})
}

// text is what a service answers, as one comparable text.
func text(t testing.TB, s *use.Service, q use.Query) string {
	t.Helper()
	found, w, err := s.Uses(ctx, q)
	if err != nil || w.Behind != 0 {
		t.Fatal(err, w)
	}
	b, err := json.Marshal(struct {
		Since time.Time
		Uses  []use.Use
	}{w.Since, found}, json.Deterministic(true), jsontext.Multiline(true))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *world) rows() (n int64) {
	w.t.Helper()
	if err := w.db.QueryRow(ctx, `SELECT count(*) FROM use_days`).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// written waits until the follower has written every day that is over.
func (w *world) written(s *use.Service, days int) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var n int
		if err := w.db.QueryRow(ctx, `SELECT count(DISTINCT day) FROM use_days`).Scan(&n); err != nil {
			w.t.Fatal(err)
		}
		if n >= days {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d of %d days are written", n, days)
		}
	}
}

func TestWhatIsUsed(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := open(t, dsn)
		w.base()
		first := w.call(day0, "payer", "ledger/pay_invoice", `{"invoice_id":"secret-id","amount_cents":1200,"currency":"EUR"}`)
		w.call(day0.Add(time.Hour), "payer", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":300,"currency":"AKIAQ3EGRZZXN4TKVW2M"}`)
		w.call(day0.Add(2*time.Hour), "payer", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":9000}`)
		w.call(day0.Add(3*time.Hour), "payer", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":10,"currency":"XXX"}`)
		w.call(day0.Add(4*time.Hour), "payer", "helpdesk/send_email", `{"to":"a@example.com"}`)
		w.call(day0.Add(24*time.Hour), "payer", "ledger/list_invoices", `{"status":"open"}`)
		last := w.call(day0.Add(25*time.Hour), "payer", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":4000,"currency":"CHF"}`)
		w.call(day0.Add(26*time.Hour), "writer", "helpdesk/send_email", `{"to":"b@example.com"}`)
		s := w.follower(use.Options{})

		found, watched, err := s.Uses(ctx, use.Query{Agent: "payer", Rule: "grant:pays", Tool: "pay_invoice"})
		if err != nil || len(found) != 1 || watched.Behind != 0 {
			t.Fatalf("%+v %+v %v", found, watched, err)
		}
		u := found[0]
		if u.Allowed != 3 || !u.FirstAllowed.Equal(day0) || u.LastEvent != last.ID || u.Stage != "production" {
			t.Errorf("%+v", u)
		}
		if a := u.Arguments["amount_cents"]; a == nil || a.Min != 300 || a.Max != 4000 || !a.Whole(3) {
			t.Errorf("amount: %+v", a)
		}
		if c := u.Arguments["currency"]; c == nil || !slices.Equal(c.Values, []string{"CHF", "EUR"}) || !c.More || c.Looked != 3 {
			t.Errorf("a redacted value counts as one that is not known: %+v", c)
		}
		if len(u.Arguments) != 2 {
			t.Errorf("arguments that nothing names are kept: %v", u.Arguments)
		}
		found, _, err = s.Uses(ctx, use.Query{Agent: "payer", Pairs: true, Tool: "pay_invoice"})
		if err != nil || len(found) != 1 || found[0].Allowed != 3 || found[0].Held != 1 || found[0].Denied != 1 || !found[0].LastDenied.Equal(day0.Add(3*time.Hour)) {
			t.Errorf("the pair: %+v %v", found, err)
		}
		if found, _, _ = s.Uses(ctx, use.Query{Rule: "never"}); len(found) != 1 || found[0].Denied != 1 {
			t.Errorf("a policy: %+v", found)
		}
		if found, _, _ = s.Uses(ctx, use.Query{Agent: "payer", Days: true, Pairs: true, Since: day0.Add(24 * time.Hour)}); len(found) != 2 || !found[0].Day.Equal(day0.Add(24*time.Hour).Truncate(24*time.Hour)) {
			t.Errorf("days: %+v", found)
		}
		all := text(t, s, use.Query{Days: true})
		if w.rows() != 0 {
			t.Error("something is written before its day is over")
		}

		// Days that are over are written, one row a pair, rule and day.
		w.set(day0.Add(72 * time.Hour))
		if err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
		defer s.Stop(ctx)
		w.written(s, 2)
		if n := w.rows(); n != 11 {
			t.Errorf("%d rows", n)
		}
		if got := text(t, s, use.Query{Days: true}); got != all {
			t.Errorf("written:\n%s\ngathered:\n%s", got, all)
		}
		w.notInClear("EUR", "CHF", "a@example.com", "secret-id")

		// Another replica, and reading all again, come to the same.
		if got := text(t, w.follower(use.Options{}), use.Query{Days: true}); got != all {
			t.Errorf("another replica:\n%s\n%s", got, all)
		}
		if err := s.Rebuild(ctx, fiona, "to be sure", false); err != nil {
			t.Fatal(err)
		}
		if got := text(t, s, use.Query{Days: true}); got != all {
			t.Errorf("read again:\n%s\nbefore:\n%s", got, all)
		}
		if first.ID == "" || !strings.Contains(all, day0.Format(time.RFC3339)) {
			t.Error("nothing was compared")
		}
	})
}

// notInClear looks for values in everything that the room keeps.
func (w *world) notInClear(values ...string) {
	w.t.Helper()
	rows, err := w.db.Query(ctx, `SELECT args FROM use_days`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	kept := 0
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			w.t.Fatal(err)
		}
		kept += len(b)
		for _, v := range values {
			if bytes.Contains(b, []byte(v)) {
				w.t.Errorf("%q stands in the store in clear", v)
			}
		}
	}
	if kept == 0 {
		w.t.Error("nothing is kept of arguments")
	}
	if rows.Err() != nil {
		w.t.Fatal(rows.Err())
	}
}

// A name that a policy brings later is looked at from then on, however often
// the log is read; --all looks at it from the beginning.
func TestArgumentsThatAreNamedLater(t *testing.T) {
	w := open(t, storagetest.SQLite(t))
	w.base()
	s := w.follower(use.Options{})
	args := `{"invoice_id":"i","amount_cents":1,"to":{"iban":"%s"},"tags":["a","%s"],"urgent":true,"rate":1.25}`
	w.call(day0, "payer", "ledger/pay_invoice", fmt.Sprintf(args, "one", "x"))
	before := text(t, s, use.Query{})
	if strings.Contains(before, "iban") {
		t.Fatal(before)
	}
	w.put("more", `@id("more") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args has to && context.args.to has iban && context.args.to.iban == "bad" ||
		context.args has tags && context.args.tags.contains("bad") || context.args has urgent && context.args.urgent && context.args has rate && context.args.rate.greaterThan(decimal("9.0")) };`)
	w.call(day0.Add(time.Minute), "payer", "ledger/pay_invoice", fmt.Sprintf(args, "two", "y"))
	pays := use.Query{Rule: "grant:pays", Tool: "pay_invoice"}
	found, _, err := s.Uses(ctx, pays)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	a := found[0].Arguments
	if !slices.Equal(a["to.iban"].Values, []string{"two"}) || a["to.iban"].Looked != 1 || a["to.iban"].Whole(2) || !slices.Equal(a["tags"].Values, []string{"a", "y"}) ||
		a["rate"].Min != 12500 || !slices.Equal(a["urgent"].Values, []string{"true"}) {
		t.Errorf("%+v", a)
	}
	after := text(t, s, use.Query{})
	for _, again := range []*use.Service{w.follower(use.Options{}), s} {
		if err := again.Rebuild(ctx, fiona, "", false); err != nil {
			t.Fatal(err)
		}
		if got := text(t, again, use.Query{}); got != after {
			t.Errorf("read again:\n%s\nbefore:\n%s", got, after)
		}
	}
	if err := s.Rebuild(ctx, fiona, "", true); err != nil {
		t.Fatal(err)
	}
	if found, _, _ = s.Uses(ctx, pays); !slices.Equal(found[0].Arguments["to.iban"].Values, []string{"one", "two"}) {
		t.Errorf("from the beginning: %+v", found[0].Arguments["to.iban"])
	}
}

// What is erased from the log is gone here too, written or not.
func TestErasedValuesAreForgotten(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := open(t, dsn)
		w.base()
		w.call(day0, "payer", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":77,"currency":"EUR"}`)
		s := w.follower(use.Options{})
		if err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
		defer s.Stop(ctx)
		w.set(day0.Add(48 * time.Hour))
		w.written(s, 1)
		w.call(day0.Add(48*time.Hour), "payer", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":88,"currency":"CHF"}`)
		if got := text(t, s, use.Query{}); !strings.Contains(got, "EUR") || !strings.Contains(got, "CHF") {
			t.Fatal(got)
		}
		if _, err := w.log.Erase(ctx, fiona, "asked for", audit.Erasure{Agent: "payer"}); err != nil {
			t.Fatal(err)
		}
		got := text(t, s, use.Query{})
		if strings.Contains(got, "EUR") || strings.Contains(got, "CHF") || strings.Contains(got, "77") || strings.Contains(got, "88") {
			t.Errorf("erased values are still known: %s", got)
		}
		found, _, err := s.Uses(ctx, use.Query{Rule: "grant:pays"})
		if err != nil || len(found) != 1 || found[0].Allowed != 2 || found[0].Arguments["amount_cents"].Whole(2) {
			t.Errorf("%+v %v", found, err)
		}
	})
}

// However often followers die, and wherever, the same is known afterwards.
func TestFollowersThatDie(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := open(t, dsn)
		w.base()
		rnd := rand.New(rand.NewPCG(1, 2))
		end := day0
		dying := func() {
			c, cancel := context.WithCancel(ctx)
			s := w.follower(use.Options{Most: 3}) // writes at every step
			done := make(chan struct{})
			go func() { defer close(done); use.Follow(c, s) }()
			for range rnd.IntN(3) {
				end = end.Add(time.Duration(rnd.IntN(7)) * time.Hour)
				w.set(end)
				w.call(end, []string{"payer", "writer"}[rnd.IntN(2)], []string{"ledger/pay_invoice", "helpdesk/send_email", "ledger/list_invoices"}[rnd.IntN(3)],
					fmt.Sprintf(`{"invoice_id":"i","amount_cents":%d,"to":"x"}`, rnd.IntN(9000)))
			}
			cancel() // in the middle of whatever it does
			<-done
			// What it held would end in time.
			if err := w.db.Tx(ctx, func(tx *storage.Tx) error {
				_, err := tx.Exec(ctx, `DELETE FROM leases WHERE name = 'use'`)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 25 {
			dying()
			if n != 12 || w.rows() > 0 {
				continue
			}
			slow := w.follower(use.Options{Most: 3}) // on a busy machine all may have died before they wrote
			if err := slow.Start(ctx); err != nil {
				t.Fatal(err)
			}
			w.written(slow, 1)
			if err := slow.Stop(ctx); err != nil {
				t.Fatal(err)
			}
		}
		s := w.follower(use.Options{})
		got := text(t, s, use.Query{Days: true})
		if err := s.Rebuild(ctx, fiona, "", false); err != nil {
			t.Fatal(err)
		}
		if want := text(t, s, use.Query{Days: true}); got != want {
			t.Errorf("after the deaths:\n%s\nread again:\n%s", got, want)
		}
	})
}

func TestGrantsThatAreNotUsed(t *testing.T) {
	w := open(t, storagetest.SQLite(t))
	w.base()
	s := w.follower(use.Options{})
	w.call(day0.Add(time.Hour), "payer", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":1}`)
	w.call(day0.Add(2*time.Hour), "payer", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":1,"currency":"XXX"}`)
	found, watched, err := s.Grants(ctx, "")
	if err != nil || len(found) != 2 {
		t.Fatal(found, err)
	}
	mails, pays := found[0], found[1]
	if mails.Grant != "mails" || !mails.LastAllowed.IsZero() || mails.Watched.IsZero() || mails.Watched.Before(watched.Since) {
		t.Errorf("not used, and since when that is known: %+v", mails)
	}
	if pays.Allowed != 1 || !pays.LastAllowed.Equal(day0.Add(time.Hour)) || len(pays.Tools) != 2 || pays.Tools[0].Tool != "list_invoices" || pays.Tools[0].Allowed != 0 ||
		!pays.Tools[1].LastDenied.Equal(day0.Add(2*time.Hour)) {
		t.Errorf("%+v", pays)
	}
	// One that is given again under the name does not inherit the use.
	if err := w.policy.RevokeGrant(ctx, fiona, "", "pays"); err != nil {
		t.Fatal(err)
	}
	w.set(day0.Add(24 * time.Hour))
	w.grant(policy.Grant{Name: "pays", Agent: "payer", Connection: "ledger", Tools: []string{"*"}})
	if found, _, err = s.Grants(ctx, "payer"); err != nil || len(found) != 1 || found[0].Allowed != 0 || len(found[0].Tools) != 0 || !found[0].Watched.Equal(day0.Add(24*time.Hour)) {
		t.Errorf("%+v %v", found, err)
	}
}
