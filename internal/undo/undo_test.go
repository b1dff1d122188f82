package undo_test

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/undo"
)

var (
	ctx  = context.Background()
	root = audit.Person("usr_root", "root")
)

type clean struct{}

func (clean) Redact(b []byte) []byte { return b }

// errDied is what a call sees whose process dies.
var errDied = errors.New("the process died")

// The moments at which a process dies while it makes a compensating call.
const (
	lives = iota
	diesBefore
	diesAfterIntent
	diesAfterEffect
	diesAfterOutcome
)

// bank is the line and the upstream behind it: a real log, and payments.
type bank struct {
	log   *audit.Log
	tools map[string]connections.Tool

	mu       sync.Mutex
	dies     int // once
	reversed map[string]int
	fails    string // what the upstream answers
	held     string // the approval that calls wait for
	approval string // how it stands
	blind    bool   // the check fails
	mute     bool   // it cannot be made
}

func (b *bank) tool(conn, name string) (connections.Tool, bool) {
	t, ok := b.tools[conn+"/"+name]
	return t, ok
}

func (b *bank) make(ctx context.Context, a undo.Act) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.Tool == "get" {
		if b.mute {
			return nil, fault.New(fault.Invalid, "bad_argument", "it cannot be asked")
		}
		if b.blind {
			return []byte(`{"result":{"isError":true}}`), nil
		}
		status := "paid"
		if b.reversed[string(a.Args)] > 0 {
			status = "open"
		}
		return fmt.Appendf(nil, `{"result":{"structuredContent":{"status":%q}}}`, status), nil
	}
	dies := b.dies
	b.dies = lives
	if dies == diesBefore {
		return nil, errDied
	}
	ev := audit.Event{Call: a.Call, Agent: a.Agent, Actor: audit.System, Connection: a.Connection, Tool: a.Tool, OnBehalfOf: []audit.Actor{a.By}}
	if b.held != "" && b.approval != "approved" {
		ev.Type, ev.Detail = audit.CallHeld, jsontext.Value(`{"approval":"`+b.held+`"}`)
		_, err := b.log.Append(ctx, ev)
		return nil, err
	}
	receipt, err := b.log.Intent(ctx, ev)
	if err != nil {
		return nil, err
	}
	end := func(o audit.Outcome) { b.log.Outcome(receipt, audit.Event{Actor: audit.System, Outcome: &o}) }
	switch {
	case dies == diesAfterIntent:
		end(audit.Outcome{Status: audit.Unknown})
		return nil, errDied
	case b.fails != "":
		end(audit.Outcome{Status: audit.Failed, Error: b.fails})
		return nil, nil
	}
	b.reversed[string(a.Args)]++
	if dies == diesAfterEffect {
		end(audit.Outcome{Status: audit.Unknown})
		return nil, errDied
	}
	end(audit.Outcome{Status: audit.Succeeded})
	if dies == diesAfterOutcome {
		return nil, errDied
	}
	return nil, nil
}

type world struct {
	*bank
	db  *storage.DB
	now time.Time
}

func newWorld(t testing.TB, db *storage.DB) *world {
	t.Helper()
	log, err := audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(ctx) })
	pinned := func(effect string, u connections.Undo) connections.Tool {
		return connections.Tool{Status: connections.StatusPinned, Effect: effect, References: connections.References{Undo: u}}
	}
	w := &world{db: db, now: time.Now(), bank: &bank{log: log, reversed: map[string]int{}}}
	w.tools = map[string]connections.Tool{
		"ledger/pay": pinned("irreversible", connections.Undo{Tool: "ledger/reverse", Args: map[string]string{"id": "result:/id"}, Within: "24h", When: map[string]string{"call:/currency": `"EUR"`},
			Check: connections.Check{Tool: "ledger/get", Args: map[string]string{"id": "result:/id"}, Done: map[string]string{"/status": `"open"`}}}),
		"ledger/mail":    pinned("write", connections.Undo{}),
		"ledger/reverse": pinned("write", connections.Undo{}),
		"ledger/get":     pinned("read", connections.Undo{}),
	}
	return w
}

// process is a service as another process has it.
func (w *world) process(t testing.TB) *undo.Service {
	t.Helper()
	s, err := undo.New(undo.Options{DB: w.db, Log: w.log, Tool: w.tool, Kind: func(string) string { return connections.MCP }, Make: w.make,
		Approval: func(context.Context, string) (string, string, error) {
			if w.approval == "" {
				return "", "", errDied
			}
			return w.approval, "no", nil
		},
		Derive: func(string) []byte { return make([]byte, 32) }, Now: func() time.Time { return w.now }, Orphaned: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// paid records a call that paid something.
func (w *world) paid(t testing.TB, run, tool string, n int, change func(intent *audit.Payload, o *audit.Outcome, result *audit.Payload)) string {
	t.Helper()
	call := id.New(id.Call)
	args := audit.Payload{Name: "arguments", Body: fmt.Appendf(nil, `{"currency":"EUR","n":%d}`, n)}
	result := audit.Payload{Name: "result", Body: fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"{\"id\":%d}"}]}}`, n)}
	o := audit.Outcome{Status: audit.Succeeded}
	if change != nil {
		change(&args, &o, &result)
	}
	receipt, err := w.log.Intent(ctx, audit.Event{Call: call, Run: run, Agent: "bot", Actor: audit.System, Connection: "ledger", Tool: tool, Effect: w.tools["ledger/"+tool].Effect}, args)
	if err != nil {
		t.Fatal(err)
	}
	if o.Status == "" {
		return call
	}
	w.log.Outcome(receipt, audit.Event{Actor: audit.System, Outcome: &o}, result)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		recs, err := w.log.List(ctx, audit.Query{Call: call, Types: []audit.Type{audit.CallOutcome}})
		if err != nil || time.Now().After(deadline) {
			t.Fatal(err)
		}
		if len(recs) == 1 {
			return call
		}
	}
}

func (w *world) begin(t testing.TB, s *undo.Service, call, run string) undo.Undo {
	t.Helper()
	p, err := s.Plan(ctx, call, run, "")
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.Begin(ctx, root, "test", call, run, "", p.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// carried lets processes carry on, each for one go, until the undo is in a state.
func (w *world) carried(t testing.TB, u undo.Undo, state string) undo.Undo {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		s := w.process(t) // a new one each time: nothing is remembered but in the database
		if err := s.Seize(ctx); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(time.Millisecond)
		if err := s.Advance(ctx); err != nil && !errors.Is(err, errDied) {
			t.Fatal(err)
		}
		now, err := s.Get(ctx, u.ID)
		if err != nil {
			t.Fatal(err)
		}
		if now.State == state {
			return now
		}
	}
	t.Fatalf("never %s", state)
	return u
}

// Wherever a process dies, another carries on, the last call first, and nothing
// is compensated twice.
func TestCarriesOnAfterDeath(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := newWorld(t, db)
		for dies, name := range []string{"lives", "before the call", "after the intent", "after the effect", "after the outcome"} {
			run := id.New(id.Run)
			for n := range 3 {
				w.paid(t, run, "pay", 10*dies+n, nil)
			}
			u := w.begin(t, w.process(t), "", run)
			w.dies = dies
			u = w.carried(t, u, undo.Done)
			for i, st := range u.Steps {
				key := fmt.Sprintf(`{"id":%d}`, 10*dies+2-i)
				if st.State != undo.Undone || len(st.Args) > 0 || w.reversed[key] != 1 {
					t.Errorf("%s, step %d: %s %s, reversed %d times", name, i+1, st.State, st.Why, w.reversed[key])
				}
			}
		}
	})
}

// What cannot be undone is in the plan with the reason.
func TestWhatCannotBeUndone(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := newWorld(t, db)
		s := w.process(t)
		for why, change := range map[string]func(*audit.Payload, *audit.Outcome, *audit.Payload){
			"nobody knows":    func(_ *audit.Payload, o *audit.Outcome, _ *audit.Payload) { o.Status = audit.Unknown },
			"still under way": func(_ *audit.Payload, o *audit.Outcome, _ *audit.Payload) { o.Status = "" },
			"it failed":       func(_ *audit.Payload, o *audit.Outcome, _ *audit.Payload) { o.Status = audit.Failed },
			"digests alone":   func(_ *audit.Payload, _ *audit.Outcome, r *audit.Payload) { r.Level = audit.Digest },
			"only when":       func(p *audit.Payload, _ *audit.Outcome, _ *audit.Payload) { p.Body = []byte(`{"currency":"USD"}`) },
			"holds nothing at /id": func(_ *audit.Payload, _ *audit.Outcome, r *audit.Payload) {
				r.Body = []byte(`{"result":{"structuredContent":{}}}`)
			},
			"was redacted": func(_ *audit.Payload, _ *audit.Outcome, r *audit.Payload) {
				r.Body = []byte(`{"result":{"structuredContent":{"id":"[redacted:iban]"}}}`)
			},
			"result cannot be read": func(_ *audit.Payload, _ *audit.Outcome, r *audit.Payload) { r.Body = []byte(`{"result":`) },
			"kept in part only":     func(_ *audit.Payload, _ *audit.Outcome, r *audit.Payload) { r.Whole = []byte(`{"result":{}} and more`) },
		} {
			p, err := s.Plan(ctx, w.paid(t, id.New(id.Run), "pay", 1, change), "", "")
			if err != nil || p.Steps[0].State != undo.Cannot || !strings.Contains(p.Steps[0].Why, why) {
				t.Errorf("%s: %+v %v", why, p.Steps, err)
			}
			if _, err := s.Begin(ctx, root, "test", p.Steps[0].Call, "", "", p.Digest); !errors.Is(err, undo.ErrNothing) {
				t.Errorf("%s: %v", why, err)
			}
		}
		run := id.New(id.Run)
		w.paid(t, run, "mail", 1, nil)
		w.paid(t, run, "get", 1, nil)
		late := w.paid(t, run, "pay", 2, nil)
		w.now = w.now.Add(25 * time.Hour)
		p, err := s.Plan(ctx, "", run, "")
		if err != nil || len(p.Steps) != 2 || !strings.Contains(p.Steps[0].Why, "its time to be undone is over") || !strings.Contains(p.Steps[1].Why, "declares nothing") {
			t.Errorf("%+v %v", p.Steps, err)
		}
		w.now = w.now.Add(-25 * time.Hour)
		reverse := w.tools["ledger/reverse"]
		reverse.Status = connections.StatusDrifted
		w.tools["ledger/reverse"] = reverse
		if p, err = s.Plan(ctx, late, "", ""); err != nil || !strings.Contains(p.Steps[0].Why, "not accepted as it is now") {
			t.Errorf("%+v %v", p.Steps, err)
		}
		for _, bad := range [][2]string{{"", ""}, {"call_x", "run_x"}} {
			if _, err := s.Plan(ctx, bad[0], bad[1], ""); !errors.Is(err, undo.ErrWhat) {
				t.Error(err)
			}
		}
		if _, err := s.Plan(ctx, "call_nothing", "", ""); !errors.Is(err, undo.ErrNothing) {
			t.Error(err)
		}
	})
}

// Two undos of the same call: one is carried out. A plan that changed is not.
func TestNotTwice(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := newWorld(t, db)
		s, run := w.process(t), id.New(id.Run)
		call := w.paid(t, run, "pay", 1, nil)
		p, err := s.Plan(ctx, call, "", "")
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		var mu sync.Mutex
		var begun []undo.Undo
		for range 8 {
			all.Go(func() {
				u, err := s.Begin(ctx, root, "test", call, "", "", p.Digest)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					begun = append(begun, u)
				case !errors.Is(err, undo.ErrTaken) && !errors.Is(err, undo.ErrChanged) && !errors.Is(err, undo.ErrNothing):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(begun) != 1 {
			t.Fatalf("%d undos of one call", len(begun))
		}
		w.carried(t, begun[0], undo.Done)
		other := w.paid(t, run, "pay", 2, nil)
		p, err = s.Plan(ctx, "", run, "")
		if err != nil || p.Steps[0].State != undo.Planned || !strings.Contains(p.Steps[1].Why, begun[0].ID) {
			t.Fatalf("%+v %v", p.Steps, err)
		}
		w.paid(t, run, "pay", 3, nil)
		if _, err := s.Begin(ctx, root, "test", "", run, "", p.Digest); !errors.Is(err, undo.ErrChanged) {
			t.Error(err)
		}
		if w.reversed[`{"id":1}`] != 1 || w.reversed[`{"id":2}`] != 0 || other == "" {
			t.Error(w.reversed)
		}
		if _, err := s.Begin(ctx, root, " ", "", run, "", p.Digest); !errors.Is(err, undo.ErrReason) {
			t.Error(err)
		}
	})
}

// What fails, or stays in doubt, stops the undo for a person, who settles it.
func TestAPersonSettles(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := newWorld(t, db)
		s, run := w.process(t), id.New(id.Run)
		w.paid(t, run, "pay", 1, nil)
		w.paid(t, run, "pay", 2, nil)
		u := w.begin(t, s, "", run)
		w.fails = "insufficient funds"
		u = w.carried(t, u, undo.Attention)
		if u.Steps[0].State != undo.Failed || !strings.Contains(u.Steps[0].Why, "insufficient funds") || u.Steps[1].State != undo.Planned {
			t.Fatalf("%+v", u.Steps)
		}
		w.fails = ""
		if _, err := s.Settle(ctx, root, "test", u.ID, []int{2}, nil); !errors.Is(err, undo.ErrNoStep) {
			t.Error(err)
		}
		w.blind, w.dies = true, diesAfterEffect
		if _, err := s.Settle(ctx, root, "there is money now", u.ID, nil, []int{1}); err != nil {
			t.Fatal(err)
		}
		u = w.carried(t, u, undo.Attention)
		if u.Steps[0].State != undo.Doubt || w.reversed[`{"id":2}`] != 1 {
			t.Fatalf("%+v", u.Steps)
		}
		if _, err := s.Settle(ctx, root, "the bank says so", u.ID, []int{1}, nil); err != nil {
			t.Fatal(err)
		}
		u = w.carried(t, u, undo.Done)
		if w.reversed[`{"id":2}`] != 1 || w.reversed[`{"id":1}`] != 1 {
			t.Error(w.reversed)
		}
		if _, err := s.Settle(ctx, root, "again", u.ID, nil, []int{1}); !errors.Is(err, undo.ErrNoStep) {
			t.Error(err)
		}
	})
}

// An undo that cannot go on stops for a person if it never can, and keeps no other
// from going on.
func TestOneThatIsStuckHoldsUpNoOther(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := newWorld(t, db)
		s := w.process(t)
		w.held, w.approval = "apr_1", "pending"
		stuck := w.begin(t, s, w.paid(t, id.New(id.Run), "pay", 1, nil), "")
		w.carried(t, stuck, undo.Running)
		w.held, w.approval = "", "" // nobody can say how it stands
		w.carried(t, w.begin(t, s, w.paid(t, id.New(id.Run), "pay", 2, nil), ""), undo.Done)
		w.mute, w.dies = true, diesAfterEffect
		u := w.carried(t, w.begin(t, s, w.paid(t, id.New(id.Run), "pay", 3, nil), ""), undo.Attention)
		if u.Steps[0].State != undo.Doubt || w.reversed[`{"id":3}`] != 1 {
			t.Errorf("%+v", u.Steps)
		}
	})
}

// A held compensation waits for people, and goes on when they approve, or stops.
func TestWaitsForPeople(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := newWorld(t, db)
		s := w.process(t)
		for _, said := range []string{"approved", "denied"} {
			w.held, w.approval = "apr_1", "pending"
			u := w.begin(t, s, w.paid(t, id.New(id.Run), "pay", len(said), nil), "")
			if u = w.carried(t, u, undo.Running); u.Steps[0].State != undo.Held || u.Steps[0].Approval != "apr_1" {
				t.Fatalf("%+v", u.Steps)
			}
			w.carried(t, u, undo.Running) // and waits
			w.approval = said
			if said == "approved" {
				w.carried(t, u, undo.Done)
			} else if u = w.carried(t, u, undo.Attention); !strings.Contains(u.Steps[0].Why, "not approved: no") {
				t.Errorf("%+v", u.Steps)
			}
			if want := map[string]int{"approved": 1, "denied": 0}[said]; w.reversed[fmt.Sprintf(`{"id":%d}`, len(said))] != want {
				t.Error(said, w.reversed)
			}
		}
	})
}
