package policy_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// made records a call as the line does.
func (w *world) made(t testing.TB, at time.Time, kind audit.Type, agent, tool, args string, level audit.Level, chain ...audit.Actor) string {
	t.Helper()
	connection, name, _ := strings.Cut(tool, "/")
	ev := audit.Event{Type: kind, Actor: audit.System, Agent: agent, Team: "finance", Connection: connection, Tool: name, Call: "call_x", Time: at, OnBehalfOf: chain}
	var payloads []audit.Payload
	if args != "" {
		payloads = append(payloads, audit.Payload{Name: "arguments", Body: []byte(args), Level: level})
	}
	if kind == audit.CallIntent {
		receipt, err := w.log.Intent(ctx, ev, payloads...)
		if err != nil {
			t.Fatal(err)
		}
		return receipt.Event()
	}
	ref, err := w.log.Append(ctx, ev, payloads...)
	if err != nil {
		t.Fatal(err)
	}
	return ref.ID
}

func summary(b policy.Backtest) []string {
	var out []string
	for _, c := range b.Changes {
		out = append(out, fmt.Sprintf("%d %s %s %s->%s %s", c.Count, c.Agent, c.Tool, c.From, c.To, strings.Join(c.By, ",")))
	}
	slices.Sort(out)
	return out
}

func TestBacktest(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.put(t, "base", `@id("all") permit (principal, action, resource);
@id("big") @approval("finance-leads") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents > 1000 };`)
		for _, g := range []policy.Grant{{Name: "read", Agent: "invoice-checker", Connection: "ledger", Tools: []string{"list_invoices"}}} {
			if _, err := w.PutGrant(ctx, fiona, "because", g); err != nil {
				t.Fatal(err)
			}
		}
		at := now.Add(-time.Hour)
		small := w.made(t, at, audit.CallIntent, "invoice-checker", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":600}`, audit.Full)
		w.made(t, at.Add(1), audit.CallHeld, "invoice-checker", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":2000}`, audit.Full)
		w.made(t, at.Add(2), audit.CallHeld, "invoice-checker", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":9000}`, audit.Full)
		w.made(t, at.Add(3), audit.CallIntent, "invoice-checker", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":600}`, audit.Digest)
		w.made(t, at.Add(4), audit.CallIntent, "invoice-checker", "ledger/list_invoices", "", audit.Full)
		w.made(t, at.Add(5), audit.CallIntent, "invoice-checker", "ledger/gone", "", audit.Full)
		w.made(t, at.Add(6), audit.CallIntent, "mail-writer", "helpdesk/send_email", `{"to":"x@example.com"}`, audit.Full, audit.Actor{Kind: audit.KindAgent, Name: "intern"})
		w.made(t, at.Add(7), audit.CallRefused, "invoice-checker", "ledger/pay_invoice", "", audit.Full)
		w.made(t, now.Add(-100*time.Hour), audit.CallIntent, "invoice-checker", "ledger/pay_invoice", `{"invoice_id":"i","amount_cents":700}`, audit.Full)

		recent := policy.Window{Since: now.Add(-24 * time.Hour)}
		trial := policy.Trial{Files: map[string]string{"base": `@id("all") permit (principal, action, resource);
@id("big") @approval("finance-leads") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents > 500 && context.args.amount_cents < 8000 };
@id("huge") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents >= 8000 };`}}
		b, err := w.Backtest(ctx, fiona, trial, recent)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"1 invoice-checker ledger/pay_invoice allow->hold all,big", "1 invoice-checker ledger/pay_invoice hold->deny huge"}
		if got := summary(b); !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
		if b.Calls != 7 || b.Affected != 4 || b.Unseen != 1 || b.Gone != 1 || b.Assumed != 0 || b.Next != "" {
			t.Errorf("%+v", b)
		}
		if at := slices.IndexFunc(b.Changes, func(c policy.Change) bool { return c.To == "hold" }); at < 0 || !slices.Equal(b.Changes[at].Events, []string{small}) {
			t.Errorf("the example is another: %+v", b.Changes)
		}

		// An agent on whose behalf another acts must be allowed too.
		b, err = w.Backtest(ctx, fiona, policy.Trial{Files: map[string]string{"no-interns": `@id("no-interns") forbid (principal == Agent::"intern", action, resource);`}}, recent)
		if got := summary(b); err != nil || !slices.Equal(got, []string{"1 mail-writer helpdesk/send_email allow->deny no-interns"}) {
			t.Errorf("%q %v", got, err)
		}
		// Grants, and policies left out.
		b, err = w.Backtest(ctx, fiona, policy.Trial{Files: map[string]string{"base": ""}}, recent)
		if got := summary(b); err != nil || !slices.Equal(got, []string{"1 invoice-checker ledger/pay_invoice allow->deny ", "1 mail-writer helpdesk/send_email allow->deny ", "2 invoice-checker ledger/pay_invoice hold->deny "}) {
			t.Errorf("%q %v", got, err)
		}
		b, err = w.Backtest(ctx, fiona, policy.Trial{Files: map[string]string{"base": ""}, Revoke: []string{"read"}, Grants: []policy.Grant{{Name: "pay", Agent: "invoice-checker", Connection: "ledger", Tools: []string{"pay_invoice"}}}},
			policy.Window{Since: recent.Since, Agent: "invoice-checker"})
		if got := summary(b); err != nil || !slices.Equal(got, []string{"1 invoice-checker ledger/list_invoices allow->deny ", "2 invoice-checker ledger/pay_invoice hold->allow pay"}) {
			t.Errorf("%q %v", got, err)
		}
		// What rests on what is not recorded is said.
		b, err = w.Backtest(ctx, fiona, policy.Trial{Files: map[string]string{"slow": `@id("slow") forbid (principal, action == Action::"ledger/list_invoices", resource) when { context.run.calls > 5 };`}}, recent)
		if err != nil || b.Assumed != 1 || len(b.Changes) != 0 {
			t.Errorf("%+v %v", b, err)
		}
		if got := w.recorded(t, "policy"); len(got) != 5 {
			t.Errorf("recorded: %v", got)
		}
		if p := w.Problems(); len(p) != 0 {
			t.Errorf("trying changed what is in force: %v", p)
		}
	})
}

func TestBacktestRefuses(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.put(t, "base", `@id("all") permit (principal, action, resource);`)
		for name, c := range map[string]struct {
			trial policy.Trial
			err   error
		}{
			"a file with a typo":           {policy.Trial{Files: map[string]string{"x": `@id("x") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amuont > 1 };`}}, policy.ErrProblems},
			"a file that is none":          {policy.Trial{Files: map[string]string{"x": `forbid (`}}, policy.ErrProblems},
			"a grant of a wrong condition": {policy.Trial{Grants: []policy.Grant{{Name: "g", Agent: "a", Connection: "ledger", Tools: []string{"*"}, When: "1 +"}}}, policy.ErrProblems},
			"a file that is not there":     {policy.Trial{Files: map[string]string{"bsae": ""}}, policy.ErrNotFound},
			"a grant that is not there":    {policy.Trial{Revoke: []string{"nothing"}}, policy.ErrNoGrant},
		} {
			if _, err := w.Backtest(ctx, fiona, c.trial, policy.Window{}); !errors.Is(err, c.err) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := w.recorded(t, "policy"); len(got) != 0 {
			t.Errorf("recorded: %v", got)
		}
		// The rules may not change under a backtest that goes on.
		b, err := w.Backtest(ctx, fiona, policy.Trial{}, policy.Window{})
		if err != nil {
			t.Fatal(err)
		}
		w.put(t, "more", `@id("more") forbid (principal == Agent::"nobody", action, resource);`)
		if _, err := w.Backtest(ctx, fiona, policy.Trial{}, policy.Window{Version: b.Version}); !errors.Is(err, policy.ErrMoved) {
			t.Errorf("%v", err)
		}
	})
}

// What a policy says about recorded arguments tells what they were: a person
// who may not see contents may not try policies on them.
func TestBacktestNeedsInspect(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for role, want := range map[string]int{"admin": 200, "operator": 200, "auditor": 200, "owner": 403, "approver": 403, "viewer": 403} {
			mux := http.NewServeMux()
			w.Routes(rest.New(mux, "test", func(context.Context, string) (rest.Caller, error) {
				return rest.Caller{ID: "usr_1", Name: "fiona", Role: role}, nil
			}, slog.New(slog.DiscardHandler)))
			server := httptest.NewServer(mux)
			status, body := request(t, "POST", server.URL+"/api/v1/policy/backtest", `{"files":[]}`)
			server.Close()
			if status != want {
				t.Errorf("%s: %d %s", role, status, body)
			}
		}
	})
}

// A backtest equals deciding every call twice: leaving out what a change is not
// about, and reading a part at a time, change nothing.
func TestBacktestEqualsDecidingEverything(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := rand.New(rand.NewPCG(3, 4))
		w.tools.set(randomTools())
		w.announce(t)
		var calls []policy.Request
		for i := range 1500 {
			req := randomRequest(r)
			req.Now, req.Agent.Labels, req.Run = now.Add(time.Duration(i-5000)*time.Second), nil, policy.Run{}
			ev := audit.Event{Type: audit.CallHeld, Actor: audit.System, Agent: req.Agent.Name, Team: req.Agent.Team, Stage: req.Agent.Stage, Connection: req.Action.Connection, Tool: req.Action.Tool, Time: req.Now}
			if _, err := w.log.Append(ctx, ev, audit.Payload{Name: "arguments", Body: req.Args, Level: audit.Full}); err != nil {
				t.Fatal(err)
			}
			calls = append(calls, req)
		}
		changed := 0
		for round := range 8 {
			var files [2]string
			for i := range files {
				for n := range 3 + r.IntN(12) {
					files[i] += randomPolicy(r, n)
				}
			}
			now1, p1, err1 := policy.Compile(map[string]string{"f": files[0]}, nil, randomTools())
			new1, p2, err2 := policy.Compile(map[string]string{"f": files[1]}, nil, randomTools())
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if len(p1)+len(p2) > 0 {
				continue // would not be saved
			}
			w.PutPolicies(ctx, fiona, "because", "f", files[0])
			want := map[string]int64{}
			for _, c := range calls {
				if from, to := now1.Decide(c).Effect, new1.Decide(c).Effect; from != to {
					want[fmt.Sprintf("%s %s/%s %s->%s", c.Agent.Name, c.Action.Connection, c.Action.Tool, from, to)]++
					changed++
				}
			}
			got := map[string]int64{}
			window := policy.Window{Most: 1000}
			for parts := 0; ; parts++ {
				b, err := w.Backtest(ctx, fiona, policy.Trial{Files: map[string]string{"f": files[1]}}, window)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range b.Changes {
					got[fmt.Sprintf("%s %s %s->%s", c.Agent, c.Tool, c.From, c.To)] += c.Count
				}
				if window.After, window.Version = b.Next, b.Version; b.Next == "" {
					if parts == 0 {
						t.Fatal("it was read in one part")
					}
					break
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("round %d: got %v, deciding everything %v\n%s\n--\n%s", round, got, want, files[0], files[1])
			}
		}
		if changed < 500 {
			t.Errorf("the trials are too much alike: %d", changed)
		}
	})
}

// BenchmarkBacktest decides 1,000,000 recorded calls under two sets of rules
// that ask for the arguments of every one. It prints calls a second, beside
// those of a trial that is about none of them.
func BenchmarkBacktest(b *testing.B) {
	const writers = 64
	n := 1_000_000
	if s := os.Getenv("COUNTERSIGN_BENCH_EVENTS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	w := open(b, storagetest.Open(b, storagetest.SQLite(b)))
	w.put(b, "base", `@id("all") permit (principal, action, resource);
@id("big") @approval("finance-leads") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents > 500000 };`)
	var group errgroup.Group
	for i := range writers {
		group.Go(func() error {
			for k := range n / writers {
				ev := audit.Event{Type: audit.CallHeld, Actor: audit.System, Agent: fmt.Sprintf("agent-%d", k%50), Team: "finance", Connection: "ledger", Tool: "pay_invoice", Time: now.Add(-time.Duration(k*writers+i) * time.Second)}
				if _, err := w.log.Append(ctx, ev, audit.Payload{Name: "arguments", Body: fmt.Appendf(nil, `{"invoice_id":"i","amount_cents":%d}`, k%1_000_000)}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	for name, file := range map[string]string{
		"every call": `@id("huge") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.amount_cents > 900000 };`,
		"no call":    `@id("mail") forbid (principal, action == Action::"helpdesk/send_email", resource);`,
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				began, busy, calls, window := time.Now(), worked(), int64(0), policy.Window{}
				for {
					x, err := w.Backtest(ctx, fiona, policy.Trial{Files: map[string]string{"trial": file}}, window)
					if err != nil {
						b.Fatal(err)
					}
					calls += x.Calls
					if window.After, window.Version = x.Next, x.Version; x.Next == "" {
						break
					}
				}
				b.ReportMetric(float64(calls)/time.Since(began).Seconds(), "calls/s")
				share := time.Since(began).Seconds() * 1e6 / float64(calls) / 60
				b.ReportMetric(share*60, "s/1,000,000")
				b.ReportMetric(100*share, "%of-a-minute") // the aim: 1,000,000 in a minute on two cores
				b.ReportMetric((worked()-busy).Seconds()*1e6/float64(calls), "cpu-s/1,000,000")
			}
		})
	}
}

// worked is the time that this process has had on all cores: on a busy machine it
// says more than the clock.
func worked() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
