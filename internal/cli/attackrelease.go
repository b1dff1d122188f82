package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/example"
	"github.com/countersign/countersign/internal/example/agents"
)

// The signals by which the example judges a canary, as they are taken away one
// by one. Its rounds make a third of its calls refused, and half of the others
// fail.
const (
	canaryShare   = 50 // percent of the runs
	canaryRounds  = 3
	mostRefusals  = 20 // percent
	mostErrors    = 30
	leastCalls    = 6
	signalRefused = "refusals"
	signalErrors  = "errors"
)

// checkerModels are what a release of the invoice checker pins.
var checkerModels = []string{"anthropic/claude-sonnet-4-5", "anthropic/claude-haiku-4-5"}

// checkerTests are the cases that a release of the invoice checker must pass.
var checkerTests = []client.Case{
	{Name: "it looks at invoices", Agent: example.InvoiceChecker, Tool: "ledger/get_invoice", Args: map[string]jsontext.Value{"number": jsontext.Value(`"4711"`)}, Expect: "allow"},
	{Name: "it pays small sums", Agent: example.InvoiceChecker, Tool: "ledger/pay_invoice", Args: sum("17450"), Expect: "allow"},
	{Name: "large ones wait for a controller", Agent: example.InvoiceChecker, Tool: "ledger/pay_invoice", Args: sum("1240000"), Expect: "hold"},
}

func sum(cents string) map[string]jsontext.Value {
	return map[string]jsontext.Value{"number": jsontext.Value(`"4709"`), "amount_cents": jsontext.Value(cents), "currency": jsontext.Value(`"EUR"`),
		"payee": jsontext.Value(`"Papier Petersen"`), "iban": jsontext.Value(`"DK5000400440116243"`)}
}

// release makes a release of the invoice checker as it is now.
func (s *showcase) release(ctx context.Context, c *client.Client, prompt string) (client.Release, error) {
	digest := sha256.Sum256([]byte(strings.TrimSpace(prompt)))
	return c.CreateRelease(ctx, example.InvoiceChecker, client.ReleaseSpec{Models: checkerModels, Prompts: []string{hex.EncodeToString(digest[:])}, Tests: checkerTests})
}

// promote has a release put in force: one person asks, accepting by name what
// may be missing, and another approves.
func (s *showcase) promote(ctx context.Context, by *client.Client, ask client.ReleaseAsk) error {
	gate, err := by.CheckRelease(ctx, example.InvoiceChecker, ask.Number, "", nil)
	if err != nil {
		return err
	}
	for _, it := range gate.Items {
		if !it.OK && it.May {
			ask.Accept = append(ask.Accept, it.ID)
		}
	}
	q, err := by.PromoteRelease(ctx, example.InvoiceChecker, ask)
	if err != nil || q.State != "open" {
		return err
	}
	_, err = s.c.DecideRelease(ctx, q.ID, true)
	return err
}

// pinned puts a release of the invoice checker in force, if there is none.
func (s *showcase) pinned(ctx context.Context) (client.ReleaseState, error) {
	st, err := s.c.ReleaseState(ctx, example.InvoiceChecker)
	if err != nil || st.Active > 0 {
		return st, err
	}
	person, err := s.as(ctx, mender)
	if err != nil {
		return st, err
	}
	if _, err := s.c.WithReason("usually it is about 80 a day").PutBudget(ctx, "invoices", client.BudgetSpec{Meter: "effects", Agent: example.InvoiceChecker, Period: "day", Hard: 5000, Soft: 4000}); err != nil {
		return st, err
	}
	rel, err := s.release(ctx, person.WithReason("as it works today"), agents.InvoicesPrompt)
	if err != nil {
		return st, err
	}
	if err := s.promote(ctx, person.WithReason("what works is pinned"), client.ReleaseAsk{Number: rel.Number}); err != nil {
		return st, err
	}
	return s.c.ReleaseState(ctx, example.InvoiceChecker)
}

// badRelease tries a release with half of the runs that reads numbers wrongly and
// pays in another currency. Nobody looks; its signals do.
func badRelease(ctx context.Context, r *raid, as assault) (attempt, error) {
	before, err := r.pinned(ctx)
	if err != nil {
		return attempt{}, err
	}
	person, err := r.as(ctx, mender)
	if err != nil {
		return attempt{}, err
	}
	person = person.WithReason("it is to read invoice numbers better")
	rel, err := r.release(ctx, person, agents.InvoicesPrompt+"\nRead the numbers of invoices anew.")
	if err != nil {
		return attempt{}, err
	}
	ask := client.ReleaseAsk{Number: rel.Number, Percent: canaryShare, Signals: &client.ReleaseSignals{Finding: "critical", Least: leastCalls}}
	if !r.blind[signalRefused] {
		ask.Signals.Refusals = mostRefusals
	}
	if !r.blind[signalErrors] {
		ask.Signals.Errors = mostErrors
	}
	if err := r.promote(ctx, person, ask); err != nil {
		return attempt{}, err
	}
	c, err := r.bound(ctx, as.agents[0], rel.Number)
	if err != nil {
		return attempt{}, errors.Join(err, r.noCanary(ctx, rel.Number))
	}
	defer c.close()
	for range canaryRounds {
		c.hands.Call(ctx, "ledger__get_invoice", map[string]any{"number": "4711"})
		c.hands.Call(ctx, "ledger__flag_anomaly", map[string]any{"number": "47 11", "reason": "looks odd"})
		c.hands.Call(ctx, "ledger__pay_invoice", map[string]any{"number": "4711", "amount_cents": 100, "currency": "USD", "payee": "Nordwind GmbH", "iban": "DE89370400440532013000"})
	}
	at, err := r.rolledBack(ctx, c.run, rel.Number, before.Active, len(r.blind) == 2)
	return at, errors.Join(err, r.noCanary(ctx, rel.Number))
}

// bound captures a run that the release binds: a share of them is.
func (r *raid) bound(ctx context.Context, agent string, number int64) (*captive, error) {
	for range 64 {
		c, err := r.capture(ctx, agent, "")
		if err != nil {
			return nil, err
		}
		st, err := r.c.RunRelease(ctx, agent, c.run)
		if err == nil && st.Binds == number {
			err = c.open(ctx, r.c.URL(), "ledger")
			if err == nil {
				return c, nil
			}
		}
		c.close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no run of %s tries release %d", agent, number)
}

// rolledBack waits until a canary is over, and says why. Without a signal that it
// could give nothing ends it, and nobody waits long for that.
func (r *raid) rolledBack(ctx context.Context, run string, number, active int64, blind bool) (attempt, error) {
	most := 30 * time.Second
	if blind {
		most = 2 * time.Second // the canary is looked at four times a second
	}
	var st client.ReleaseState
	err := awaitFor(ctx, most, "the canary to be rolled back", func() (_ bool, err error) {
		st, err = r.c.ReleaseState(ctx, example.InvoiceChecker)
		return st.Canary != number, err
	})
	if errors.Is(err, errWaited) && blind {
		return attempt{run: run, through: true}, nil
	}
	at := slices.IndexFunc(st.Moves, func(m client.ReleaseMove) bool { return m.Kind == "rolled_back" && m.Previous == number })
	if err == nil && at < 0 {
		err = fmt.Errorf("release %d is not tried any more, and nobody rolled it back", number)
	}
	if err != nil {
		return attempt{}, err
	}
	return r.because(ctx, run, st.Moves[at], active)
}

// because gathers what the log says of a canary that was rolled back.
func (r *raid) because(ctx context.Context, run string, m client.ReleaseMove, active int64) (attempt, error) {
	ev, err := r.event(ctx, "type:release.rolled_back object:agent/"+example.InvoiceChecker, m.At.Add(-time.Second))
	if err != nil {
		return attempt{}, err
	}
	entries, _, err := r.c.BareRun(ctx, run)
	if err != nil {
		return attempt{}, err
	}
	out := &response{Events: []witness{{ev.ID, ev.Type}}}
	for _, e := range entries {
		if e.Event.Time.After(ev.Time) {
			continue
		}
		switch e.Event.Type {
		case "call.intent":
			out.Before++
			fallthrough
		case "call.denied", "call.outcome":
			out.Micros = ev.Time.Sub(e.Event.Time).Microseconds()
		}
	}
	by := signalRefused
	if strings.Contains(m.Reason, "failed") {
		by = signalErrors
	}
	out.Says = fmt.Sprintf("%s of its share of the runs went out; then %s, and release %d is in force again", counted(out.Before, "call", "calls"), m.Reason, active)
	return attempt{run: run, refused: &layer{byRelease, by, "rolled back"}, event: ev.ID, response: out}, nil
}

// noCanary ends what an attack tried, if nothing else did.
func (r *raid) noCanary(ctx context.Context, number int64) error {
	ctx = context.WithoutCancel(ctx)
	st, err := r.c.ReleaseState(ctx, example.InvoiceChecker)
	if err != nil || st.Canary != number {
		return err
	}
	_, err = r.c.RollBackRelease(ctx, example.InvoiceChecker, 0)
	return err
}

// ignore takes a signal away by which canaries are judged.
func (r *raid) ignore(signal string) error {
	if r.blind == nil {
		r.blind = map[string]bool{}
	}
	r.blind[signal] = true
	r.undo = append(r.undo, func(context.Context) error { delete(r.blind, signal); return nil })
	return nil
}
