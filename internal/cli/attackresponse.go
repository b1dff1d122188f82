package cli

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/example"
)

// response is what was done about an attack that nothing refused at once.
type response struct {
	Before int       `json:"through_before"` // calls that got through first
	Says   string    `json:"says"`           // what they were, and what was done
	Micros int64     `json:"micros"`         // from the event that decided until it was over
	Events []witness `json:"events"`         // that say so in the log
}

// witness is an event that tells of a response.
type witness struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}

// took says how long a response took.
func (p response) took() string {
	return (time.Duration(p.Micros) * time.Microsecond).Round(time.Millisecond).String()
}

// witnesses are the types of its events, in the order in which they came.
func (p response) witnesses() string {
	var types []string
	for _, w := range p.Events {
		types = append(types, w.Type)
	}
	return strings.Join(types, ", ")
}

// await asks until done says so. That it takes longer than half a minute is an
// error, which names what was waited for.
func await(ctx context.Context, what string, done func() (bool, error)) error {
	return awaitFor(ctx, 30*time.Second, what, done)
}

// errWaited says that what was waited for did not come.
var errWaited = errors.New("it did not come")

func awaitFor(ctx context.Context, most time.Duration, what string, done func() (bool, error)) error {
	for deadline := time.Now().Add(most); ; {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %s: %w", what, errWaited)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// event waits for the newest event that a query finds and that is not older than
// since.
func (r *raid) event(ctx context.Context, query string, since time.Time) (ev client.Event, err error) {
	err = await(ctx, query, func() (bool, error) {
		page, err := r.c.SearchLog(ctx, query, "", 1, false)
		if err != nil || len(page.Events) == 0 || page.Events[0].Time.Before(since) {
			return false, err
		}
		ev = page.Events[0]
		return true, nil
	})
	return ev, err
}

// bill is an invoice as the ledger tells of it.
type bill struct {
	Number   string `json:"number"`
	Supplier string `json:"supplier"`
	Amount   int64  `json:"amount_cents"`
	Currency string `json:"currency"`
	IBAN     string `json:"iban"`
	OnFile   string `json:"iban_on_file"`
	Flag     string `json:"flag"`
	Hold     string `json:"hold_reason"`
	Status   string `json:"status"`
}

// unasked is less than what policy wants a person for.
const unasked = 500_000

// payable returns the largest open invoice that the invoice checker may pay by
// itself. It looks in a run of its own, as whoever plans it would.
func (r *raid) payable(ctx context.Context) (best bill, err error) {
	c, err := r.capture(ctx, example.InvoiceChecker, "", "ledger")
	if err != nil {
		return best, err
	}
	defer c.close()
	text, failed := c.hands.Call(ctx, "ledger__list_invoices", map[string]any{"status": "open"})
	var all struct {
		Invoices []bill `json:"invoices"`
	}
	if err := json.Unmarshal([]byte(text), &all); failed || err != nil {
		return best, fmt.Errorf("the invoices could not be read: %s", inert(text, 200))
	}
	for _, b := range all.Invoices {
		if b.Status == "open" && b.Flag == "" && b.Hold == "" && b.IBAN == b.OnFile && b.Amount < unasked && b.Amount > best.Amount {
			best = b
		}
	}
	if best.Number == "" {
		return best, errors.New("no invoice is open that could be paid without asking; new ones come in every few seconds, so try again")
	}
	return best, nil
}

// payUnasked pays an invoice that is small and clean enough, which is what the
// agent is for. A person takes it back.
func payUnasked(ctx context.Context, r *raid, as assault) (attempt, error) {
	b, err := r.payable(ctx)
	if err != nil {
		return attempt{}, err
	}
	c, err := r.capture(ctx, as.agents[0], "", "ledger")
	if err != nil {
		return attempt{}, err
	}
	defer c.close()
	c.hands.Call(ctx, "ledger__pay_invoice", map[string]any{"number": b.Number, "amount_cents": b.Amount, "currency": b.Currency, "payee": b.Supplier, "iban": b.IBAN})
	res, err := r.outcome(ctx, attempt{run: c.run, tool: as.tool})
	if err != nil {
		return attempt{}, err
	}
	if res.Stopped {
		return attempt{run: c.run, tool: as.tool}, nil
	}
	paid, err := r.event(ctx, "type:call.outcome tool:"+as.tool+" run:"+c.run, time.Time{})
	if err != nil {
		return attempt{}, err
	}
	at, err := r.takeBack(ctx, paid, "nobody ordered it")
	at.run = c.run
	if at.response != nil {
		at.response.Says = fmt.Sprintf("invoice %s was paid, %s to %s; then %s", b.Number, money(b.Amount, b.Currency), b.Supplier, at.response.Says)
	}
	return at, err
}

func money(cents int64, currency string) string {
	return fmt.Sprintf("%d.%02d %s", cents/100, cents%100, currency)
}

// mender is who operates the example.
const mender = "pat"

// takeBack undoes a call, as a person does it: the plan, the right that it needs,
// for an hour, and the undo. What cannot be undone got through.
func (r *raid) takeBack(ctx context.Context, done client.Event, why string) (attempt, error) {
	person, err := r.as(ctx, mender)
	if err != nil {
		return attempt{}, err
	}
	person = person.WithReason(why)
	what := client.UndoWhat{Call: done.Call}
	plan, err := person.PlanUndo(ctx, what)
	if err != nil {
		return attempt{}, err
	}
	if len(plan.Steps) != 1 || plan.Steps[0].State != "planned" {
		return attempt{through: true, event: done.ID}, nil
	}
	step := plan.Steps[0]
	connection, tool, _ := strings.Cut(step.ByTool, "/")
	if _, err := person.PutGrant(ctx, "takes-back", client.GrantSpec{Agent: step.Agent, Connection: connection, Tools: []string{tool}, Expires: time.Now().Add(time.Hour)}); err != nil {
		return attempt{}, err
	}
	if plan, err = person.PlanUndo(ctx, what); err != nil {
		return attempt{}, err
	}
	u, err := person.BeginUndo(ctx, what, plan.Digest)
	if err != nil {
		return attempt{}, err
	}
	err = await(ctx, "the undo "+u.ID, func() (bool, error) {
		u, err = person.Undo(ctx, u.ID)
		return u.State != "running", err
	})
	if err = errors.Join(err, person.RevokeGrant(context.WithoutCancel(ctx), "takes-back")); err != nil {
		return attempt{}, err
	}
	if u.State != "done" {
		return attempt{through: true, event: done.ID}, nil
	}
	return r.takenBack(ctx, done, u)
}

// takenBack gathers what the log says of an undo.
func (r *raid) takenBack(ctx context.Context, done client.Event, u client.Undo) (attempt, error) {
	ended, err := r.event(ctx, "type:undo.ended object:call/"+done.Call, u.Created)
	if err != nil {
		return attempt{}, err
	}
	page, err := r.c.SearchLog(ctx, "object:call/"+done.Call+" since:"+u.Created.UTC().Truncate(time.Second).Format(time.RFC3339), "", 20, true)
	if err != nil {
		return attempt{}, err
	}
	step := u.Steps[0]
	out := &response{Before: 1, Says: "taken back by " + step.ByTool + ", asked for by " + u.By, Micros: ended.Time.Sub(done.Time).Microseconds()}
	for _, ev := range page.Events {
		if strings.HasPrefix(ev.Type, "undo.") {
			out.Events = append(out.Events, witness{ev.ID, ev.Type})
		}
	}
	return attempt{refused: &layer{byUndo, step.ByTool, "undone"}, event: ended.ID, response: out}, nil
}

// declareNoUndo takes away that a tool says what undoes it.
func (r *raid) declareNoUndo(ctx context.Context, full string) error {
	connection, tool, _ := strings.Cut(full, "/")
	d, err := r.c.Tool(ctx, connection, tool)
	if err != nil {
		return err
	}
	without := d.References
	without.Undo = client.ToolUndo{}
	r.undo = append(r.undo, func(ctx context.Context) error {
		_, err := r.c.SetReferences(ctx, connection, tool, d.References)
		return err
	})
	_, err = r.c.SetReferences(ctx, connection, tool, without)
	return err
}
