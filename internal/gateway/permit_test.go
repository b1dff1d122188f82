package gateway_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

// heldRig is a rig whose calls wait for fiona.
type heldRig struct {
	*rig
	t    *testing.T
	asks *approvals.Service
	log  *breakable

	budgets *budget.Service
}

// breakable is a log that fails to take calls down when broken is set.
type breakable struct {
	gateway.Ledger
	broken func()
}

var errBroken = errors.New("the log is broken")

func (b *breakable) Intent(ctx context.Context, ev audit.Event, p ...audit.Payload) (audit.Receipt, error) {
	if b.broken != nil {
		b.broken()
		return audit.Receipt{}, errBroken
	}
	return b.Ledger.Intent(ctx, ev, p...)
}

func (b *breakable) Append(ctx context.Context, ev audit.Event, p ...audit.Payload) (audit.Ref, error) {
	if b.broken != nil {
		b.broken()
		return audit.Ref{}, errBroken
	}
	return b.Ledger.Append(ctx, ev, p...)
}

func newHeldRig(t *testing.T, answer http.HandlerFunc) *heldRig {
	t.Helper()
	h := &heldRig{t: t}
	l := line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), line.Options{Tune: func(l *line.Line, o *gateway.Options) {
		var err error
		h.asks, err = approvals.New(l.DB, l.Log, l.Watch, approvals.Options{Identity: l.Identity, Findings: l.Findings, Derive: l.Secrets.Derive, Redactor: l.Scanner, URL: "http://countersign.example"})
		h.must(err)
		h.log = &breakable{Ledger: o.Ledger}
		h.budgets, err = budget.New(l.DB, l.Log, l.Watch, budget.Options{Known: func(context.Context, string, string) (bool, error) { return true, nil }, Findings: l.Findings})
		h.must(err)
		t.Cleanup(func() { h.must(h.budgets.Close(context.WithoutCancel(t.Context()))) })
		o.Approvals, o.Ledger, o.Budgets = h.asks, h.log, h.budgets
	}})
	h.rig = &rig{Line: l, up: upstream.Start(t, answer)}
	h.conn = h.Connect("openai", connections.OpenAI, h.up.URL)
	h.tool, _ = h.Connections.Tool("openai", "chat.completions")
	h.Policies(line.AllowAll + `@id("held") @approval("controllers") forbid (principal, action == Action::"openai/chat.completions", resource);`)
	_, err := h.Identity.PutUser(t.Context(), line.By, line.Reason, identity.User{Name: "fiona", Email: "fiona@hanse-trade.example", Role: "admin"})
	h.must(err)
	_, err = h.Identity.PutGroup(t.Context(), line.By, line.Reason, identity.Group{Name: "controllers", Members: []string{"fiona"}})
	h.must(err)
	return h
}

func (h *heldRig) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// approved makes a call and has it approved.
func (h *heldRig) approved() (request string) {
	h.t.Helper()
	_, refusal := h.serve(h.t.Context(), nil)
	if refusal == nil || !refusal.Held() || refusal.Approval == nil {
		h.t.Fatalf("not held: %+v", refusal)
	}
	u, _ := h.Identity.User("fiona")
	_, err := h.asks.Decide(h.t.Context(), approvals.By{Person: approvals.Person{ID: u.ID, Name: u.Name}, Channel: "api"}, refusal.Approval.ID, approvals.Approve, "test")
	h.must(err)
	return refusal.Approval.ID
}

// executed waits until the request's call has ended and says how.
func (h *heldRig) executed(request string) (outcome string) {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r, err := h.asks.Get(context.Background(), request)
		h.must(err)
		if r.State == approvals.Executed {
			return r.Outcome
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s is %s", request, r.State)
		}
	}
}

// again makes the same call once more and returns its kept answer.
func (h *heldRig) again() string {
	h.t.Helper()
	answer, refusal := h.serve(h.t.Context(), nil)
	if refusal != nil || !answer.Kept {
		h.t.Fatalf("no kept answer: %+v %+v", answer, refusal)
	}
	return drain(h.t, answer)
}

// An approved call whose client leaves, before the answer begins or while it
// comes, is read to its end: the answer waits for who asks again, and the call is
// made once.
func TestAnApprovedCallOutlivesItsClient(t *testing.T) {
	for _, when := range []string{"before the answer", "during the answer"} {
		t.Run(when, func(t *testing.T) {
			release := make(chan struct{})
			h := newHeldRig(t, func(w http.ResponseWriter, r *http.Request) {
				hold := func() {
					select {
					case <-release:
					case <-r.Context().Done(): // of who gave up
					}
				}
				if when == "before the answer" {
					hold()
				}
				_, _ = io.WriteString(w, "one ")
				_ = http.NewResponseController(w).Flush()
				if when == "during the answer" {
					hold()
				}
				_, _ = io.WriteString(w, "two")
			})
			request := h.approved()
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			done := make(chan *gateway.Refusal, 1)
			go func() {
				answer, refusal := h.serve(ctx, nil)
				if refusal == nil {
					_ = answer.Body.Close()
				}
				done <- refusal
			}()
			h.up.Arrived(t)
			leave()
			if when == "during the answer" {
				if refusal := <-done; refusal != nil {
					t.Fatal(refusal)
				}
			}
			close(release)
			if outcome := h.executed(request); outcome != audit.Succeeded {
				t.Errorf("it ended as %s", outcome)
			}
			if got := h.again(); got != "one two" {
				t.Errorf("kept: %q", got)
			}
			if n := len(h.up.Requests()); n != 1 {
				t.Errorf("made %d times", n)
			}
		})
	}
}

// An approval that was used up for a call which could not be recorded is settled:
// the call was not sent, and is not sent by a repetition either.
func TestAnApprovedCallThatIsNotRecordedIsNotSent(t *testing.T) {
	h := newHeldRig(t, upstream.JSON(200, `{}`))
	request := h.approved()
	ctx, leave := context.WithCancel(t.Context())
	h.log.broken = leave // and the client leaves
	if answer, refusal := h.serve(ctx, nil); refusal == nil || refusal.Code != gateway.ErrLedger.Code {
		t.Errorf("%+v %+v", answer, refusal)
	}
	h.log.broken = nil
	if outcome := h.executed(request); outcome != approvals.NotSent {
		t.Errorf("it ended as %s", outcome)
	}
	if answer, refusal := h.serve(t.Context(), nil); refusal == nil {
		t.Errorf("an approval was good for another try: %+v", answer)
	}
	if n := len(h.up.Requests()); n != 0 {
		t.Errorf("sent %d times", n)
	}
}

// A kept answer is not handed out unrecorded; by the request's id it is there still.
func TestAKeptAnswerIsNotHandedOutUnrecorded(t *testing.T) {
	h := newHeldRig(t, upstream.JSON(200, `{}`))
	request := h.approved()
	answer, refusal := h.serve(t.Context(), nil)
	if refusal != nil {
		t.Fatal(refusal)
	}
	drain(t, answer) // and nobody was told
	h.executed(request)
	h.log.broken = func() {}
	if answer, refusal := h.serve(t.Context(), nil); refusal == nil || refusal.Code != gateway.ErrLedger.Code {
		t.Errorf("%+v %+v", answer, refusal)
	}
	if kept, err := h.asks.Collect(t.Context(), request); err != nil || kept == nil || string(kept.Body) != `{}` {
		t.Errorf("%+v %v", kept, err)
	}
}

// A part of an answer is not kept for the whole.
func TestAPartOfAnAnswerIsNotKept(t *testing.T) {
	h := newHeldRig(t, upstream.Raw("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf"))
	request := h.approved()
	answer, refusal := h.serve(t.Context(), nil)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if _, err := io.ReadAll(answer.Body); err == nil {
		t.Error("half an answer is a whole one")
	}
	h.must(answer.Body.Close())
	if outcome := h.executed(request); outcome != audit.Broken {
		t.Errorf("it ended as %s", outcome)
	}
	if kept, err := h.asks.Collect(t.Context(), request); err != nil || kept != nil {
		t.Errorf("kept: %+v %v", kept, err)
	}
}

// What a call reserved of a budget is given back when it could not be recorded.
func TestACallThatIsNotRecordedGivesItsBudgetBack(t *testing.T) {
	h := newHeldRig(t, upstream.JSON(200, `{}`))
	h.Policies(line.AllowAll)
	_, err := h.budgets.Put(t.Context(), line.By, line.Reason, budget.Budget{Name: "one", Meter: "calls", Agent: "invoice-checker", Period: "total", Hard: 1})
	h.must(err)
	h.log.broken = func() {}
	if answer, refusal := h.serve(t.Context(), nil); refusal == nil || refusal.Code != gateway.ErrLedger.Code {
		t.Fatalf("%+v %+v", answer, refusal)
	}
	h.log.broken = nil
	answer, refusal := h.serve(t.Context(), nil)
	for deadline := time.Now().Add(30 * time.Second); refusal != nil && refusal.Code == gateway.CodeBudget && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		answer, refusal = h.serve(t.Context(), nil) // it is given back beside what is done
	}
	if refusal != nil {
		t.Fatalf("the budget is used up by a call that was not made: %+v", refusal)
	}
	drain(t, answer)
	if answer, refusal := h.serve(t.Context(), nil); refusal == nil || refusal.Code != gateway.CodeBudget {
		t.Errorf("there is no budget: %+v %+v", answer, refusal)
	}
}

// An approved call whose client is gone does not go on for ever.
func TestAnApprovedCallDoesNotOutliveItsClientForEver(t *testing.T) {
	defer gateway.Outlive(20 * time.Millisecond)()
	h := newHeldRig(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "one ")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // of who gave up
	})
	request := h.approved()
	answer, refusal := h.serve(t.Context(), nil)
	if refusal != nil {
		t.Fatal(refusal)
	}
	h.must(answer.Body.Close())
	if outcome := h.executed(request); outcome == audit.Succeeded {
		t.Errorf("it ended as %s", outcome)
	}
}
