package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

const heldModels = `
@id("held") @approval("deciders") forbid (principal, action in Action::"up", resource) when { context.args has model && context.args.model == "held" };
@id("served") @approval("deciders") @execute("server") forbid (principal, action in Action::"up", resource) when { context.args has model && context.args.model == "served" };`

// heldPlace is a moment between a person's approval and the end of the call.
// model "held" is made by its agent, "served" by the server.
type heldPlace struct {
	deadPlace
	model  string
	decide bool   // the server dies when the person decides, else when the agent comes back
	after  string // the state that the next server finds; "": several are right
	unsent bool   // nothing says that the call may have left
}

// to is a place at a change of a request's state.
func to(state string, committed bool) deadPlace {
	p := deadPlace{postgres: stop{sql: "UPDATE approvals SET state", args: state, commit: true, after: committed}, sqlite: "approvals UPDATE NEW.state = '" + state + "'", when: "within"}
	p.name = "before it is " + state
	if committed {
		p.name, p.when = state+", not known", "committed"
	}
	return p
}

var heldPlaces = []heldPlace{
	{deadPlace: to("approved", false), model: "held", decide: true, after: "pending"},
	{deadPlace: to("approved", true), model: "held", decide: true, after: "approved"},
	{deadPlace: to("approved", true), model: "served", decide: true},
	{deadPlace: to("executing", false), model: "held", after: "approved"},
	{deadPlace: to("executing", true), model: "held", after: "executing", unsent: true},
	{deadPlace: deadPlace{name: "before the intent", postgres: stop{sql: "INSERT INTO events", args: "call.intent"}, sqlite: "events INSERT NEW.type = 'call.intent'", when: "within"}, model: "held", after: "executing", unsent: true},
	{deadPlace: deadPlace{name: "intent durable, not known", postgres: stop{sql: "INSERT INTO events", args: "call.intent", after: true}, sqlite: "events INSERT NEW.type = 'call.intent'", when: "committed"}, model: "held"},
	{deadPlace: deadPlace{name: "forwarding", upstream: "connected"}, model: "held"},
	{deadPlace: deadPlace{name: "forwarded", upstream: "received"}, model: "held"},
	{deadPlace: deadPlace{name: "forwarded by the server", upstream: "received"}, model: "served", decide: true},
	{deadPlace: deadPlace{name: "before the outcome", postgres: stop{sql: "INSERT INTO events", args: "call.outcome"}, sqlite: "events INSERT NEW.type = 'call.outcome'", when: "within"}, model: "held"},
	{deadPlace: to("executed", false), model: "held"},
	{deadPlace: to("executed", true), model: "held", after: "executed"},
}

// Whatever the moment between approve, execute and outcome at which the server
// dies: what people approved is made at most once, an approval that was
// acknowledged is there, and in the end the request says how its call ended.
func TestKillBetweenApproveAndOutcome(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		own := dsn
		var wire *tap
		if strings.HasPrefix(dsn, "postgres") {
			wire, dsn = newTap(t, dsn)
		}
		p := newPlant(t, t.TempDir(), dsn)
		p.api(t, "PUT", "/groups/deciders", map[string]any{"members": []string{"admin"}}, nil)
		p.api(t, "PUT", "/policies/held", map[string]any{"text": heldModels}, nil)
		var made []string
		for i, place := range heldPlaces {
			if place.when == "committed" && wire == nil && !hasStrace(t) {
				continue
			}
			if id := p.diesHeld(place, wire, int64(1000+i)); id != "" {
				made = append(made, id)
			}
		}
		for _, id := range made {
			p.settledAs(t, id, "executed")
		}
		p.dsn = own
		p.whole() // no call went out twice, none without its intent
	})
}

// diesHeld has the server die at a place on the way of a held call, starts it
// again, and takes the call to its end. It returns the request if it has to end
// as executed now: one whose call never left ends when no replica can be about
// to send it any more.
func (p *plant) diesHeld(at heldPlace, wire *tap, n int64) string {
	p.t.Helper()
	first := p.ofModel(at.model, n)
	id := regexp.MustCompile(`apr_[0-9a-z]{26}`).FindString(first)
	if id == "" {
		p.t.Fatalf("%s: not held: %s", at.name, first)
	}
	if !at.decide {
		p.decide(p.t, id, "approve")
	}
	p.arm(at.deadPlace, wire)
	victim := p.process
	gone := make(chan struct{})
	go func() { _ = victim.cmd.Wait(); close(gone) }()
	go func() {
		if at.decide {
			_, _ = p.tryPost(victim.url+"/api/v1/approvals/"+id+"/decision", victim.token, `{"verdict":"approve","reason":"test"}`)
		} else {
			_, _ = p.tryPost(victim.url+"/llm/up/v1/chat/completions", p.key, modelCall(at.model, n))
		}
	}()
	select {
	case <-gone:
	case <-time.After(60 * time.Second):
		_ = victim.cmd.Process.Kill()
		<-gone
		p.t.Errorf("%s: it was never reached\n%s", at.name, tailOf(victim.stderr.Bytes()))
	}
	p.up.at.Store(nil)
	if !p.wasKilled(at.deadPlace) {
		return id
	}
	p.again()
	p.recovers(30 * time.Second)
	// Of a commit on SQLite that nobody was told of, either may be there.
	found := p.stateOf(id)
	if at.after != "" && found != at.after && (wire != nil || at.when != "committed") {
		p.t.Errorf("%s: the next server finds it %s, not %s", at.name, found, at.after)
	}
	if found == "pending" {
		p.decide(p.t, id, "approve")
	}
	p.comesBack(at, id, n)
	switch {
	case found != "executing":
		return id
	case at.when == "committed" && wire == nil: // whether its intent is there, and so when it ends, is open
		return ""
	case !at.unsent:
		return id
	}
	if now := p.stateOf(id); now != "executing" {
		p.t.Errorf("%s: an approval that was used up is %s", at.name, now)
	}
	return ""
}

// comesBack is the agent after the server's death: it repeats its call until
// it was made, or is told that it was.
func (p *plant) comesBack(at heldPlace, id string, n int64) {
	p.t.Helper()
	for range 3 {
		answer := p.ofModel(at.model, n)
		if strings.Contains(answer, "chat.completion") || (strings.Contains(answer, "apr_") && !strings.Contains(answer, id)) {
			return // nobody means the same call a third time
		}
	}
}

func (p *plant) stateOf(id string) string {
	p.t.Helper()
	var row approvalRow
	p.api(p.t, "GET", "/approvals/"+id, nil, &row)
	return row.State
}

// arm has the server die at a place.
func (p *plant) arm(at deadPlace, wire *tap) {
	p.t.Helper()
	victim := p.process
	kill := func() { _ = victim.cmd.Process.Kill() }
	switch {
	case at.upstream != "":
		p.up.acts(at.upstream, kill)
	case wire != nil:
		s := at.postgres
		s.fire = kill
		wire.arm(&s)
	default:
		p.process.stop(p.t)
		p.again(pointEnv + "=" + at.sqlite + ":1:" + at.when)
	}
}

func modelCall(model string, n int64) string {
	return fmt.Sprintf(`{"model":%q,"max_tokens":5,"messages":[{"role":"user","content":"call %d"}]}`, model, n)
}

// ofModel makes the call and returns its answer.
func (p *plant) ofModel(model string, n int64) string {
	p.t.Helper()
	b, err := p.tryPost(p.url+"/llm/up/v1/chat/completions", p.key, modelCall(model, n))
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// tryPost posts to a server that may die over it.
func (p *plant) tryPost(url, token, body string) (string, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}
