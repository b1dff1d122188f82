package account

import (
	"cmp"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Account is what the log says of an incident.
type Account struct {
	From        time.Time    `json:"from,omitzero" doc:"its first event"`
	To          time.Time    `json:"to,omitzero" doc:"its last event"`
	Events      int          `json:"events"`
	Agents      []Agent      `json:"agents"`
	Credentials []Credential `json:"credentials"`
	Runs        []Run        `json:"runs"`
	Touched     []Touched    `json:"touched" doc:"business objects, as the tools declare them"`
	Effects     []Effect     `json:"effects" doc:"calls that may have changed something"`
	Decisions   []Decision   `json:"decisions" doc:"calls that were denied or held, and those allowed that may have changed something"`
	Approvals   []Approval   `json:"approvals"`
	Timeline    []Entry      `json:"timeline"`
}

// Agent is an agent and what it did.
type Agent struct {
	Name  string    `json:"name"`
	Owner string    `json:"owner,omitempty"`
	Stage string    `json:"stage,omitempty"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Tally
}

// Tally counts calls.
type Tally struct {
	Calls   int `json:"calls" doc:"that went out"`
	Effects int `json:"effects" doc:"of them, that may have changed something"`
	Denied  int `json:"denied"`
	Held    int `json:"held"`
	Failed  int `json:"failed" doc:"failed, broken or cancelled"`
	Unknown int `json:"unknown" doc:"nobody knows how they ended"`
}

// Credential is a credential and from where it was used.
type Credential struct {
	ID      string    `json:"id"`
	Agent   string    `json:"agent,omitempty"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Remotes []string  `json:"remotes" doc:"addresses, at most 50"`
	Clients []string  `json:"clients" doc:"programs, as they call themselves, at most 50"`
	Tally
}

// Run is a run and what it did.
type Run struct {
	ID    string    `json:"id"`
	Agent string    `json:"agent"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Tally
}

// Touched is a business object.
type Touched struct {
	Object  string   `json:"object"`
	Tools   []string `json:"tools"`
	Calls   int      `json:"calls"`
	Effects int      `json:"effects" doc:"calls that may have changed it"`
}

// Effect is a call that may have changed something.
type Effect struct {
	ID      string    `json:"id" doc:"of the call"`
	At      time.Time `json:"at"`
	Agent   string    `json:"agent"`
	Run     string    `json:"run,omitempty"`
	Tool    string    `json:"tool"`
	Effect  string    `json:"effect"`
	Objects []string  `json:"objects"`
	Status  string    `json:"status" doc:"how it ended; under way if the log does not say"`
	Event   string    `json:"event" doc:"its intent"`
}

// Decision is how a call was decided.
type Decision struct {
	ID       string    `json:"id" doc:"of the event"`
	At       time.Time `json:"at"`
	Call     string    `json:"call,omitempty"`
	Agent    string    `json:"agent,omitempty"`
	Tool     string    `json:"tool,omitempty"`
	Effect   string    `json:"effect" doc:"allow, deny, hold or refuse"`
	Code     string    `json:"code,omitempty" doc:"of the refusal, if it was recorded"`
	Policies []string  `json:"policies"`
	Grants   []string  `json:"grants"`
	Reason   string    `json:"reason,omitempty"`
}

// Approval is what people did with a held call.
type Approval struct {
	ID    string `json:"id"`
	Call  string `json:"call,omitempty"`
	Agent string `json:"agent,omitempty"`
	Tool  string `json:"tool,omitempty"`
	Steps []Step `json:"steps"`
}

// Step is one act of an approval.
type Step struct {
	At     time.Time `json:"at"`
	Event  string    `json:"event"`
	Act    string    `json:"act" doc:"such as approval.granted"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

// Entry is one event in the timeline.
type Entry struct {
	ID     string    `json:"id" doc:"of the event"`
	At     time.Time `json:"at"`
	Type   string    `json:"type"`
	By     string    `json:"by"`
	Agent  string    `json:"agent,omitempty"`
	Run    string    `json:"run,omitempty"`
	Call   string    `json:"call,omitempty"`
	Object string    `json:"object,omitempty"`
	What   string    `json:"what" doc:"the event in a line"`
}

// event is what is read of a record.
type event struct {
	Actor struct {
		Name string `json:"name"`
		Kind string `json:"kind"`
	} `json:"actor"`
	Agent      string `json:"agent"`
	Call       string `json:"call"`
	Client     string `json:"client"`
	Connection string `json:"connection"`
	Credential string `json:"credential"`
	Decision   *struct {
		Code     string   `json:"code"`
		Effect   string   `json:"effect"`
		Grants   []string `json:"grants"`
		Policies []string `json:"policies"`
		Reason   string   `json:"reason"`
	} `json:"decision"`
	Detail  jsontext.Value `json:"detail"`
	Effect  string         `json:"effect"`
	ID      string         `json:"id"`
	Object  string         `json:"object"`
	Objects []string       `json:"objects"`
	Outcome *struct {
		Status string `json:"status"`
		Error  string `json:"error"`
	} `json:"outcome"`
	Owner  string    `json:"owner"`
	Reason string    `json:"reason"`
	Remote string    `json:"remote"`
	Run    string    `json:"run"`
	Stage  string    `json:"stage"`
	Time   time.Time `json:"time"`
	Tool   string    `json:"tool"`
	Type   string    `json:"type"`
}

func (e *event) tool() string {
	if e.Tool == "" {
		return ""
	}
	return e.Connection + "/" + e.Tool
}

// changes reports whether the call may change something.
func (e *event) changes() bool { return e.Effect != "" && e.Effect != "read" }

// mostNames bounds the addresses and programs that are listed of a credential.
const mostNames = 50

// Of returns the account of records, each the exact bytes of an event. Their order
// does not matter, and one that is given twice counts once.
func Of(records [][]byte) (Account, error) {
	byID := map[string]*event{}
	for _, raw := range records {
		var e event
		if err := json.Unmarshal(raw, &e); err != nil || e.ID == "" {
			return Account{}, fmt.Errorf("a record is not an event")
		}
		byID[e.ID] = &e
	}
	b := builder{agents: map[string]*Agent{}, credentials: map[string]*Credential{}, runs: map[string]*Run{}, touched: map[string]*Touched{}, effects: map[string]*Effect{}, approvals: map[string]*Approval{}}
	for _, id := range slices.Sorted(maps.Keys(byID)) { // identifiers are in the order of time
		b.add(byID[id])
	}
	return b.account(), nil
}

type builder struct {
	out         Account
	agents      map[string]*Agent
	credentials map[string]*Credential
	runs        map[string]*Run
	touched     map[string]*Touched
	effects     map[string]*Effect
	approvals   map[string]*Approval
}

func (b *builder) add(e *event) {
	if b.out.Events++; b.out.Events == 1 {
		b.out.From = e.Time
	}
	b.out.To = e.Time
	b.out.Timeline = append(b.out.Timeline, Entry{ID: e.ID, At: e.Time, Type: e.Type, By: e.by(), Agent: e.Agent, Run: e.Run, Call: e.Call, Object: e.Object, What: e.line()})
	switch {
	case strings.HasPrefix(e.Type, "approval."):
		b.approval(e)
	case strings.HasPrefix(e.Type, "call."), e.Type == "auth.refused":
		b.call(e)
	}
}

func (b *builder) call(e *event) {
	tallies := b.whose(e)
	count := func(fn func(t *Tally)) {
		for _, t := range tallies {
			fn(t)
		}
	}
	switch e.Type {
	case "call.intent":
		count(func(t *Tally) { t.Calls++ })
		if e.changes() {
			count(func(t *Tally) { t.Effects++ })
			b.effects[e.Call] = &Effect{ID: e.Call, At: e.Time, Agent: e.Agent, Run: e.Run, Tool: e.tool(), Effect: e.Effect, Objects: names(e.Objects), Status: "under way", Event: e.ID}
		}
		b.touch(e)
	case "call.denied", "call.refused", "auth.refused":
		count(func(t *Tally) { t.Denied++ })
	case "call.held":
		count(func(t *Tally) { t.Held++ })
	case "call.outcome", "call.settled":
		b.end(e, count)
	}
	if d := e.Decision; d != nil && (e.Type != "call.intent" || e.changes()) || e.Type == "call.refused" {
		row := Decision{ID: e.ID, At: e.Time, Call: e.Call, Agent: e.Agent, Tool: e.tool(), Effect: "refuse", Policies: []string{}, Grants: []string{}, Reason: e.Reason}
		if d != nil {
			row.Effect, row.Code, row.Policies, row.Grants, row.Reason = d.Effect, d.Code, names(d.Policies), names(d.Grants), d.Reason
		}
		b.out.Decisions = append(b.out.Decisions, row)
	}
}

// end notes how a call ended. What became known later counts, not that it was
// unknown before.
func (b *builder) end(e *event, count func(func(*Tally))) {
	if e.Outcome == nil {
		return
	}
	status := e.Outcome.Status
	if f := b.effects[e.Call]; f != nil {
		f.Status = status
	}
	if e.Type == "call.settled" {
		count(func(t *Tally) { t.Unknown = max(0, t.Unknown-1) })
	}
	switch status {
	case "failed", "broken", "cancelled":
		count(func(t *Tally) { t.Failed++ })
	case "unknown":
		count(func(t *Tally) { t.Unknown++ })
	}
}

// whose returns what an event of a call is counted for.
func (b *builder) whose(e *event) (out []*Tally) {
	if e.Agent != "" {
		a := at(b.agents, e.Agent, Agent{Name: e.Agent, First: e.Time})
		a.Last, a.Owner, a.Stage = e.Time, cmp.Or(e.Owner, a.Owner), cmp.Or(e.Stage, a.Stage)
		out = append(out, &a.Tally)
	}
	if e.Credential != "" {
		c := at(b.credentials, e.Credential, Credential{ID: e.Credential, First: e.Time, Remotes: []string{}, Clients: []string{}})
		c.Last, c.Agent = e.Time, cmp.Or(e.Agent, c.Agent)
		c.Remotes, c.Clients = with(c.Remotes, e.Remote), with(c.Clients, e.Client)
		out = append(out, &c.Tally)
	}
	if e.Run != "" {
		r := at(b.runs, e.Run, Run{ID: e.Run, First: e.Time})
		r.Last, r.Agent = e.Time, cmp.Or(e.Agent, r.Agent)
		out = append(out, &r.Tally)
	}
	return out
}

func (b *builder) touch(e *event) {
	for _, o := range e.Objects {
		t := at(b.touched, o, Touched{Object: o, Tools: []string{}})
		t.Calls++
		if e.changes() {
			t.Effects++
		}
		t.Tools = with(t.Tools, e.tool())
	}
}

func (b *builder) approval(e *event) {
	id, ok := strings.CutPrefix(e.Object, "approval/")
	if !ok {
		return
	}
	a := at(b.approvals, id, Approval{ID: id})
	a.Call, a.Agent, a.Tool = cmp.Or(e.Call, a.Call), cmp.Or(e.Agent, a.Agent), cmp.Or(e.tool(), a.Tool)
	a.Steps = append(a.Steps, Step{At: e.Time, Event: e.ID, Act: e.Type, By: e.by(), Reason: e.Reason})
}

func (b *builder) account() Account {
	out := b.out
	out.Agents = list(b.agents, func(x Agent) string { return x.Name })
	out.Credentials = list(b.credentials, func(x Credential) string { return x.ID })
	out.Runs = list(b.runs, func(x Run) string { return x.First.Format(time.RFC3339Nano) + x.ID })
	out.Touched = list(b.touched, func(x Touched) string { return x.Object })
	out.Effects = list(b.effects, func(x Effect) string { return x.Event })
	out.Approvals = list(b.approvals, func(x Approval) string { return x.ID })
	if out.Decisions == nil {
		out.Decisions = []Decision{}
	}
	if out.Timeline == nil {
		out.Timeline = []Entry{}
	}
	return out
}

func at[T any](m map[string]*T, key string, fresh T) *T {
	if m[key] == nil {
		m[key] = &fresh
	}
	return m[key]
}

// list returns what m holds in the order of by.
func list[T any](m map[string]*T, by func(T) string) []T {
	out := make([]T, 0, len(m))
	for _, v := range m {
		out = append(out, *v)
	}
	slices.SortFunc(out, func(x, y T) int { return cmp.Compare(by(x), by(y)) })
	return out
}

func names(list []string) []string { return append([]string{}, list...) }

// with adds a name to a list that is not in it, up to a bound.
func with(list []string, name string) []string {
	if name == "" || len(list) >= mostNames || slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}
