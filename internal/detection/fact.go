package detection

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/netip"
	"strings"

	"github.com/countersign/countersign/internal/audit"
)

// Fact is one event as rules see it. It holds no content: names, counts, and
// what the line has found out.
type Fact struct {
	ID string
	At int64 // microseconds since 1970, by the clock of who recorded it

	Type, Agent, Owner, Team, Stage, Credential, Connection, Tool, Run, Effect string
	Actor, ActorKind, Object                                                   string

	Network  string // /24 or /48 of the caller
	Client   string // what calls itself the client, without versions
	Hour     string // of the day in UTC, "00" to "23"
	Status   string // how the call ended
	Decision string // allow, deny, hold
	Code     string // of a refusal; "" in events from before denials had one
	Front    string // of a refusal: llm, mcp, http
	Model    string // that was asked for
	Odd      string // the parameter of a model's call that no honest client sends
	Script   string // in which the newest words of the user are written
	Canned   string // "yes": they are a prompt by which stolen keys are tried
	Proposed string // "yes" or "no": whether a model's answer proposed the call; "" where nobody looked
	Rule     string // of a signal

	HTTP, Tokens, Cost, Times, Weight float64

	Labels []string
}

// textFacts and numberFacts are what expressions may name.
var textFacts = map[string]func(*Fact) *string{
	"type": func(f *Fact) *string { return &f.Type }, "agent": func(f *Fact) *string { return &f.Agent }, "owner": func(f *Fact) *string { return &f.Owner },
	"team": func(f *Fact) *string { return &f.Team }, "stage": func(f *Fact) *string { return &f.Stage }, "credential": func(f *Fact) *string { return &f.Credential },
	"connection": func(f *Fact) *string { return &f.Connection }, "tool": func(f *Fact) *string { return &f.Tool }, "run": func(f *Fact) *string { return &f.Run },
	"effect": func(f *Fact) *string { return &f.Effect }, "actor": func(f *Fact) *string { return &f.Actor }, "actor_kind": func(f *Fact) *string { return &f.ActorKind },
	"object": func(f *Fact) *string { return &f.Object }, "network": func(f *Fact) *string { return &f.Network }, "client": func(f *Fact) *string { return &f.Client },
	"hour": func(f *Fact) *string { return &f.Hour }, "status": func(f *Fact) *string { return &f.Status }, "decision": func(f *Fact) *string { return &f.Decision },
	"code": func(f *Fact) *string { return &f.Code }, "front": func(f *Fact) *string { return &f.Front }, "model": func(f *Fact) *string { return &f.Model },
	"odd": func(f *Fact) *string { return &f.Odd }, "script": func(f *Fact) *string { return &f.Script }, "canned": func(f *Fact) *string { return &f.Canned },
	"proposed": func(f *Fact) *string { return &f.Proposed }, "rule": func(f *Fact) *string { return &f.Rule },
}

var numberFacts = map[string]func(*Fact) float64{
	"http": func(f *Fact) float64 { return f.HTTP }, "tokens": func(f *Fact) float64 { return f.Tokens }, "cost": func(f *Fact) float64 { return f.Cost },
	"times": func(f *Fact) float64 { return f.Times }, "weight": func(f *Fact) float64 { return f.Weight },
}

// hours are the values of Fact.Hour, made once.
var hours = func() (h [24]string) {
	for i := range h {
		h[i] = string([]byte{'0' + byte(i/10), '0' + byte(i%10)})
	}
	return h
}()

// known is the part of an event's detail that rules read.
type known struct {
	Code     string `json:"code"`
	Front    string `json:"front"`
	Model    string `json:"model"`
	Odd      string `json:"odd"`
	Script   string `json:"script"`
	Canned   bool   `json:"canned"`
	Proposed *bool  `json:"proposed"`
	Count    int64  `json:"count"`

	Rule   string  `json:"rule"` // of a signal in a trace
	Weight float64 `json:"weight"`
}

// detailed says of which events the detail is read.
func detailed(t string) bool {
	return strings.HasPrefix(t, "call.") || t == string(audit.AuthRefused) || t == string(Surplus) || t == watchSignal
}

// Surplus is the type of the event that records that a provider was asked for
// more than the log knows of.
const Surplus audit.Type = "usage.surplus"

// reader turns events into facts. It is not safe for concurrent use.
type reader struct {
	networks map[string]string // by address, so that a known one costs nothing
}

// maxNetworks bounds what is remembered of addresses.
const maxNetworks = 4096

// fact fills f with what ev says.
func (r *reader) fact(ev *audit.Event, f *Fact) {
	at := ev.Time.UTC()
	*f = Fact{
		ID: ev.ID, At: at.UnixMicro(), Type: string(ev.Type), Agent: ev.Agent, Owner: ev.Owner, Team: ev.Team, Stage: ev.Stage, Credential: ev.Credential,
		Connection: ev.Connection, Tool: ev.Tool, Run: ev.Run, Effect: ev.Effect, Actor: ev.Actor.Name, ActorKind: string(ev.Actor.Kind), Object: ev.Object,
		Network: r.network(ev.Remote), Client: client(ev.Client), Hour: hours[at.Hour()], Labels: ev.Labels, Times: 1,
	}
	if ev.Decision != nil {
		f.Decision, f.Code = ev.Decision.Effect, ev.Decision.Code
	}
	if o := ev.Outcome; o != nil {
		f.Status, f.HTTP = o.Status, float64(o.Code)
		if u := o.Usage; u != nil {
			f.Tokens, f.Cost = float64(u.Input+u.Output), float64(u.Cost)/1e6
		}
	}
	detail(ev, f)
}

// detail reads what an event says beside its fields. A detail that is of another
// form says nothing: it is ours, but older or newer versions wrote it.
func detail(ev *audit.Event, f *Fact) {
	if len(ev.Detail) == 0 || !detailed(f.Type) {
		return
	}
	if bytes.Equal(ev.Detail, proposedNo) {
		f.Proposed = "no"
		return
	}
	var d known
	if json.Unmarshal(ev.Detail, &d, jsontext.AllowInvalidUTF8(true)) != nil {
		return
	}
	f.Front, f.Odd, f.Script, f.Rule, f.Weight = d.Front, d.Odd, d.Script, d.Rule, d.Weight
	if d.Code != "" {
		f.Code = d.Code
	}
	if d.Model != "" {
		f.Model = d.Model
	}
	if d.Canned {
		f.Canned = "yes"
	}
	if d.Proposed != nil {
		if f.Proposed = "no"; *d.Proposed {
			f.Proposed = "yes"
		}
	}
	if d.Count > 1 {
		f.Times = float64(d.Count)
	}
}

var proposedNo = []byte(`{"proposed":false}`)

// network returns the /24 or /48 that an address belongs to.
func (r *reader) network(remote string) string {
	if remote == "" {
		return ""
	}
	if n, ok := r.networks[remote]; ok {
		return n
	}
	out := "unknown"
	if addr, err := netip.ParseAddr(remote); err == nil {
		addr = addr.Unmap().WithZone("")
		bits := 48
		if addr.Is4() {
			bits = 24
		}
		if p, err := addr.Prefix(bits); err == nil {
			out = p.String()
		}
	}
	if r.networks == nil || len(r.networks) >= maxNetworks {
		r.networks = map[string]string{}
	}
	r.networks[remote] = out
	return out
}

// client returns what a client calls itself, without its version: "openai-python"
// of "OpenAI/Python 1.2" would need a list, so it is the first word up to a digit.
func client(agent string) string {
	for i := range len(agent) {
		switch c := agent[i]; {
		case c == ' ', c == '(', c == ';':
			return agent[:i]
		case c == '/' && i+1 < len(agent) && agent[i+1] >= '0' && agent[i+1] <= '9':
			return agent[:i]
		}
	}
	return agent
}
