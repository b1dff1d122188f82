package server_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

const heldReads = `
@id("held") @approval("deciders") forbid (principal, action == Action::"liar/read", resource) unless { context.args has limit && context.args.limit >= 1000 };
@id("served") @approval("deciders") @execute("server") forbid (principal, action == Action::"liar/read", resource) when { context.args has limit && context.args.limit >= 1000 };
@id("asks") forbid (principal, action == Action::"liar/read", resource) when { context.args has limit && context.args.limit == 999999 && context.provenance.external };`

// heldWorld is a server whose agent's reads are held for fiona and carl, and an
// upstream that counts what it is asked to do.
type heldWorld struct {
	*process
	t      *testing.T
	liar   *liar
	key    string
	person map[string]string // name to session
	made   atomic.Int64
	n      int
}

func newHeldWorld(t *testing.T, p *process) *heldWorld {
	t.Helper()
	w := &heldWorld{process: p, t: t, person: map[string]string{}}
	w.liar, w.key = p.liar(t)
	w.liar.other = func(rw http.ResponseWriter) {
		w.made.Add(1)
		fmt.Fprint(rw, `{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"MADE-IT"}]}}`)
	}
	for _, name := range []string{"fiona", "carl"} {
		w.person[name] = p.person(t, name, "approver")
	}
	w.deciders("fiona", "carl")
	p.api(t, "POST", "/connections/liar/refresh", map[string]any{}, nil)
	p.api(t, "PUT", "/policies/held", map[string]any{"text": heldReads}, nil)
	return w
}

func (w *heldWorld) deciders(names ...string) {
	w.t.Helper()
	w.api(w.t, "PUT", "/groups/deciders", map[string]any{"members": names}, nil)
}

func (w *heldWorld) call(p *process, tool string, limit int) string {
	w.t.Helper()
	_, body := p.send(w.t, "/mcp/liar", w.key, "", map[string]any{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": map[string]any{"name": tool, "arguments": map[string]any{"limit": limit}}})
	return body
}

// held makes a call of its own that is held and returns its limit and request.
func (w *heldWorld) held(from int) (limit int, id string) {
	w.t.Helper()
	w.n++
	limit = from + w.n
	body := w.call(w.process, "read", limit)
	at := strings.Index(body, "apr_")
	if at < 0 {
		w.t.Fatalf("not held: %s", body)
	}
	return limit, body[at : at+30]
}

// asksFor waits until a process has seen that a call needs as many people.
func (w *heldWorld) asksFor(p *process, quorum int) {
	w.t.Helper()
	var body string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		body = w.call(p, "read", 1)
		at := strings.Index(body, "apr_")
		if at < 0 {
			continue // not even the agent or its grant is known there yet
		}
		var d struct {
			Needs []struct {
				Quorum int `json:"quorum"`
			} `json:"needs"`
		}
		w.api(w.t, "GET", "/approvals/"+body[at:][:30], nil, &d)
		if d.Needs[0].Quorum == quorum {
			return
		}
	}
	w.t.Fatalf("never asked for %d: %s", quorum, body)
}

func (w *heldWorld) vote(p *process, name, id, verdict string) (int, string) {
	w.t.Helper()
	return p.as(w.t, w.person[name], "POST", "/api/v1/approvals/"+id+"/decision", `{"verdict":"`+verdict+`","reason":"test"}`)
}

func (w *heldWorld) stateOf(id string) string {
	w.t.Helper()
	var row struct {
		State string `json:"state"`
		Why   string `json:"why"`
	}
	w.api(w.t, "GET", "/approvals/"+id, nil, &row)
	return strings.TrimSpace(row.State + " " + row.Why)
}

// change is something that happens between approval and execution.
type change struct {
	do, undo func()
	void     bool // the approval is over; else it is only not good while this lasts
}

func (w *heldWorld) changes() map[string]change {
	put := func(path string, body map[string]any) func() { return func() { w.api(w.t, "PUT", path, body, nil) } }
	post := func(path string) func() { return func() { w.api(w.t, "POST", path, map[string]any{}, nil) } }
	all := map[string]change{
		"the agent is suspended":  {do: post("/agents/worker/suspend"), undo: post("/agents/worker/resume")},
		"the grant is gone":       {do: func() { w.api(w.t, "DELETE", "/grants/worker-liar", nil, nil) }, undo: func() { w.grant(w.t, "liar") }, void: true},
		"out of the group":        {do: func() { w.deciders("carl") }, undo: func() { w.deciders("fiona", "carl") }, void: true},
		"no approver any more":    {do: put("/users/fiona", map[string]any{"role": "viewer"}), undo: put("/users/fiona", map[string]any{"role": "approver"}), void: true},
		"the definition changed":  {do: w.redefine(strings.Replace(honest, "reads", "reads and writes", 1)), undo: w.redefine(honest), void: true},
		"a rule forbids it now":   {do: put("/policies/no", map[string]any{"text": `@id("no") forbid (principal, action == Action::"liar/read", resource);`}), undo: func() { w.api(w.t, "DELETE", "/policies/no", nil, nil) }},
		"who decides is changed":  {do: put("/policies/held", map[string]any{"text": strings.ReplaceAll(heldReads, `@approval("deciders")`, `@approval("deciders") @quorum("2")`)}), undo: put("/policies/held", map[string]any{"text": heldReads}), void: true},
		"the approver has left":   {do: put("/users/fiona", map[string]any{"role": "approver", "disabled": true}), undo: func() { w.person["fiona"] = w.process.person(w.t, "fiona", "approver") }, void: true},
		"findings are held too":   {do: w.inspecting(map[string]string{"pii": "hold:deciders"}), undo: w.inspecting(nil), void: true},
		"the group is made again": {do: func() { w.api(w.t, "DELETE", "/groups/deciders", nil, nil); w.deciders("fiona", "carl") }, undo: func() {}, void: true},
	}
	for _, l := range [][2]string{{"agent", "worker"}, {"connection", "liar"}, {"tool", "liar/read"}, {"owner", "olga"}, {"everything", ""}} {
		var placed lockState
		all["a lock on the "+l[0]] = change{
			do: func() {
				w.api(w.t, "POST", "/locks", map[string]any{"kind": l[0], "name": l[1]}, &placed)
				w.settled(w.t, placed.ID)
			},
			undo: func() { w.api(w.t, "DELETE", "/locks/"+placed.ID, nil, nil) },
		}
	}
	return all
}

// inspecting changes what is done about what is found in the connection's calls.
func (w *heldWorld) inspecting(actions map[string]string) func() {
	return func() {
		w.api(w.t, "PUT", "/connections/liar", map[string]any{"kind": "mcp", "owner": "olga", "url": w.liar.url, "allow_private": true, "inspect": actions}, nil)
	}
}

// redefine has the upstream list another definition, which is accepted.
func (w *heldWorld) redefine(tool string) func() {
	return func() {
		w.liar.mu.Lock()
		w.liar.answer = func(rw http.ResponseWriter, id string) { fmt.Fprint(rw, listed(id, tool)) }
		w.liar.mu.Unlock()
		w.api(w.t, "POST", "/connections/liar/refresh", map[string]any{}, nil)
		if body := w.call(w.process, "read", 1); strings.Contains(body, "MADE-IT") {
			w.t.Errorf("a definition that nobody accepted: %s", body)
		}
		var t struct {
			Seen string `json:"drift_digest"`
		}
		w.api(w.t, "GET", "/connections/liar/tools/read", nil, &t)
		w.api(w.t, "POST", "/connections/liar/tools/read/accept", map[string]any{"digest": t.Seen}, nil)
	}
}

// Whatever happens between approval and execution: the call goes the whole way
// again, and what is not as it was then is not made.
func TestEverythingIsLookedAtAgainOnTheWay(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := newHeldWorld(t, start(t, t.TempDir(), dsn, ""))
		for name, c := range w.changes() {
			limit, id := w.held(0)
			if status, body := w.vote(w.process, "fiona", id, "approve"); status != 200 {
				t.Fatalf("%s: %d %s", name, status, body)
			}
			before := w.made.Load()
			c.do()
			body := w.call(w.process, "read", limit)
			if strings.Contains(body, "MADE-IT") || w.made.Load() != before {
				t.Errorf("%s: %s", name, body)
			}
			if c.void {
				w.settledAs(t, id, "void")
			}
			c.undo()
			w.after(name, limit, c.void)
			if t.Failed() {
				t.Fatalf("%s: %s", name, w.stateOf(id))
			}
		}
		w.worse()
	})
}

// after is the call when everything is as it was: an approval that is void
// stays void, and one that is not is good once.
func (w *heldWorld) after(name string, limit int, void bool) {
	w.t.Helper()
	if void {
		for range 3 { // told, and asked anew
			if body := w.call(w.process, "read", limit); strings.Contains(body, "MADE-IT") {
				w.t.Errorf("%s: an approval came back: %s", name, body)
			}
		}
		return
	}
	var body string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && !strings.Contains(body, "MADE-IT") && !strings.Contains(body, "Pending"); time.Sleep(20 * time.Millisecond) {
		body = w.call(w.process, "read", limit)
	}
	if !strings.Contains(body, "MADE-IT") {
		w.t.Errorf("%s, and is over: %s", name, body)
	}
	if body := w.call(w.process, "read", limit); !strings.Contains(body, "Pending") {
		w.t.Errorf("%s: good twice: %s", name, body)
	}
}

// worse is a run that reads untrusted content between approval and execution.
func (w *heldWorld) worse() {
	w.t.Helper()
	var run struct {
		Token string `json:"token"`
	}
	w.api(w.t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "1h"}, &run)
	w.key = run.Token
	limit, id := w.held(0)
	w.vote(w.process, "fiona", id, "approve")
	if body := w.call(w.process, "other", 1); !strings.Contains(body, "MADE-IT") {
		w.t.Fatalf("%s", body)
	}
	before := w.made.Load()
	body := w.call(w.process, "read", limit)
	if strings.Contains(body, "MADE-IT") || w.made.Load() != before || !strings.HasPrefix(w.stateOf(id), "void the run has gathered") {
		w.t.Errorf("a worse label: %s is %s: %s", id, w.stateOf(id), body)
	}
}

// A call that the server makes goes the same way: a lock stops it, and then
// it is over.
func TestTheServerMakesNothingThatIsLocked(t *testing.T) {
	w := newHeldWorld(t, start(t, t.TempDir(), storagetest.SQLite(t), ""))
	limit, id := w.held(1000)
	var placed lockState
	w.api(t, "POST", "/locks", map[string]any{"kind": "agent", "name": "worker"}, &placed)
	w.settled(t, placed.ID)
	w.vote(w.process, "fiona", id, "approve")
	w.settledAs(t, id, "void")
	w.api(t, "DELETE", "/locks/"+placed.ID, nil, nil)
	w.after("a lock", limit, true)
	if n := w.made.Load(); n != 0 {
		t.Errorf("%d calls were made", n)
	}
}

// Two processes on one database: one person's approvals at the same instant are
// one, two people's are two, and what they approved is made by one of all that
// come for it, wherever they come.
func TestApprovingTwiceAtTheSameInstant(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	all := replicas(t, storagetest.Postgres(t), 2)
	w := newHeldWorld(t, all[0])
	w.api(t, "PUT", "/policies/held", map[string]any{"text": strings.ReplaceAll(heldReads, `@approval("deciders")`, `@approval("deciders") @quorum("2")`)}, nil)
	w.asksFor(all[1], 2)
	for range 5 {
		limit, id := w.held(1)
		together := func(a, b func() int) (x, y int) {
			var wg sync.WaitGroup
			wg.Go(func() { x = a() })
			wg.Go(func() { y = b() })
			wg.Wait()
			return x, y
		}
		vote := func(p *process, name string) func() int {
			return func() int { status, _ := w.vote(p, name, id, "approve"); return status }
		}
		if x, y := together(vote(all[0], "fiona"), vote(all[1], "fiona")); x+y != 200+409 {
			t.Errorf("one person twice: %d %d", x, y)
		}
		if s := w.stateOf(id); s != "pending" {
			t.Fatalf("one person made a quorum of two: %s", s)
		}
		if x, y := together(vote(all[0], "carl"), vote(all[1], "carl")); x+y != 200+409 {
			t.Errorf("the last one twice: %d %d", x, y)
		}
		before := w.made.Load()
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() { w.call(all[i%2], "read", limit) })
		}
		wg.Wait()
		w.settledAs(t, id, "executed")
		if n := w.made.Load() - before; n != 1 {
			t.Errorf("made %d times", n)
		}
	}
}

// No agent decides, whatever it presents: not with its own key, not with a run's
// token, not through another agent.
func TestNoAgentDecides(t *testing.T) {
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	w := newHeldWorld(t, p)
	limit, id := w.held(0)
	p.api(t, "PUT", "/agents/second", map[string]any{"owner": "olga", "stage": "development"}, nil)
	var key struct {
		Key string `json:"key"`
	}
	p.api(t, "POST", "/agents/second/keys", map[string]any{}, &key)
	var run struct {
		Token string `json:"token"`
	}
	p.api(t, "POST", "/agents/second/runs", map[string]any{"expires_in": "1h"}, &run)
	for name, credential := range map[string]string{"its key": w.key, "another agent's key": key.Key, "another agent's run": run.Token} {
		for _, act := range []string{"decision", "override"} {
			if status, body := p.as(t, credential, "POST", "/api/v1/approvals/"+id+"/"+act, `{"verdict":"approve","reason":"I may"}`); status != 401 && status != 403 {
				t.Errorf("%s, %s: %d %s", name, act, status, body)
			}
		}
	}
	// Someone who starts the other agent's run, or the agent's own, is part of it.
	status, body := p.as(t, w.person["fiona"], "POST", "/api/v1/agents/worker/runs", `{"expires_in":"1h"}`)
	t.Logf("fiona starts a run: %d %.200s", status, body)
	if w.stateOf(id) != "pending" || strings.Contains(w.call(p, "read", limit), "MADE-IT") {
		t.Error("an agent decided")
	}
}

// What people approved is made whatever its tool's rate says, and counts against it.
func TestAnApprovedCallCountsAgainstTheRate(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	w := newHeldWorld(t, start(t, t.TempDir(), storagetest.SQLite(t), ""))
	w.api(t, "PATCH", "/connections/liar/tools/read", map[string]any{"limits": map[string]string{"calls": "1/1h"}}, nil)
	for range 2 {
		limit, id := w.held(1)
		if status, body := w.vote(w.process, "fiona", id, "approve"); status != 200 {
			t.Fatal(status, body)
		}
		if body := w.call(w.process, "read", limit); !strings.Contains(body, "MADE-IT") {
			t.Fatalf("an approved call: %s", body)
		}
	}
	w.api(t, "DELETE", "/policies/held", nil, nil)
	var body string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if body = w.call(w.process, "read", 9000); !strings.Contains(body, "apr_") {
			break
		}
	}
	if !strings.Contains(body, "called too often") {
		t.Errorf("a call after two approved ones in an hour that has room for one: %s", body)
	}
	if n := w.made.Load(); n != 2 {
		t.Errorf("%d calls were made", n)
	}
}
