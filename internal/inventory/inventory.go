package inventory

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// ErrNoAgent says that there is no such agent.
var ErrNoAgent = fault.New(fault.NotFound, "agent_not_found", "there is no such agent; see countersign agent list")

// Options of a Service. All are required unless they say otherwise.
type Options struct {
	DB          *storage.DB
	Identity    *identity.Service
	Connections *connections.Service
	Policy      *policy.Service
	Secrets     *secrets.Service
	Findings    *findings.Service
	// Users names the people on whose behalf an agent may act now: they are
	// signed in with it.
	Users func(ctx context.Context, agent string) ([]string, error)
	Log   *audit.Log
	// Priced reports whether a price names a model; nil: none does.
	Priced func(model string) bool
	// Ignore reports whether an event shows nothing of others, because it is of a
	// probe of our own, and Probe whether an agent was made for one. Nil: none.
	Ignore func(ev audit.Event) bool
	Probe  func(agent string) bool
	Now    func() time.Time
	Logger *slog.Logger // discards if nil
}

// Service answers from the rooms it is given, and keeps what the log shows. It is
// safe for concurrent use.
type Service struct {
	o  Options
	mu sync.Mutex // one step at a time

	life   sync.Mutex
	cancel context.CancelFunc
	done   chan struct{}
}

// New returns a Service that does not follow the log by itself yet.
func New(o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o}
}

// Reach counts what something can touch.
type Reach struct {
	Agents       int `json:"agents" doc:"that may reach it; of an agent: 0"`
	Connections  int `json:"connections"`
	Tools        int `json:"tools"`
	Read         int `json:"read"`
	Write        int `json:"write"`
	Irreversible int `json:"irreversible"`
	Held         int `json:"held" doc:"tools whose every call waits for people"`
	Conditional  int `json:"conditional" doc:"tools that are reached only under conditions"`
}

// Found counts the open findings about something.
type Found struct {
	Open  int    `json:"open"`
	Worst string `json:"worst,omitempty" enum:"info,low,medium,high,critical"`
}

// Row is one thing of the inventory.
type Row struct {
	Name     string    `json:"name"`
	Owner    string    `json:"owner"`
	Created  time.Time `json:"created"`
	AgeDays  int       `json:"age_days"`
	LastUsed time.Time `json:"last_used,omitzero"`
	Reach    Reach     `json:"reach" doc:"what it may touch, under conditions: an over-approximation"`
	Findings Found     `json:"findings"`
}

// Listing is the whole inventory.
type Listing struct {
	Agents      []Row `json:"agents"`
	Connections []Row `json:"connections"`
	Secrets     []Row `json:"secrets"`
}

// List returns the inventory.
func (s *Service) List(ctx context.Context) (Listing, error) {
	found, err := s.found(ctx)
	if err != nil {
		return Listing{}, err
	}
	uses, err := s.o.Connections.LastUses(ctx)
	if err != nil {
		return Listing{}, err
	}
	out := Listing{Agents: []Row{}, Connections: []Row{}, Secrets: []Row{}}
	reached := map[string]Reach{} // of connections, by name
	conns := s.o.Connections.Connections()
	for _, a := range s.o.Identity.Agents() {
		r := s.agentReach(a, conns, reached)
		out.Agents = append(out.Agents, s.row(a.Name, a.Owner, a.Created, a.LastCall, r, found["agent/"+a.Name]))
	}
	bySecret := map[string]Reach{}
	for _, c := range conns {
		r := reached[c.Name]
		r.Connections = 1
		for _, t := range s.o.Connections.Tools(c.Name) {
			r.count(t, policy.Reach{})
		}
		out.Connections = append(out.Connections, s.row(c.Name, c.Owner, c.Created, uses[c.Name], r, found["connection/"+c.Name]))
		for _, name := range secretsOf(c) {
			bySecret[name] = r
		}
	}
	all, err := s.o.Secrets.List(ctx)
	if err != nil {
		return Listing{}, err
	}
	for _, sec := range all {
		out.Secrets = append(out.Secrets, s.row(sec.Name, sec.Owner, sec.Created, sec.LastUsed, bySecret[sec.Name], found["secret/"+sec.Name]))
	}
	return out, nil
}

func (s *Service) row(name, owner string, created, used time.Time, r Reach, f Found) Row {
	return Row{Name: name, Owner: owner, Created: created, AgeDays: int(s.o.Now().Sub(created) / (24 * time.Hour)), LastUsed: used, Reach: r, Findings: f}
}

// agentReach counts what an agent may touch, and counts it with each connection.
func (s *Service) agentReach(a identity.Agent, conns []connections.Connection, reached map[string]Reach) Reach {
	var total Reach
	for _, c := range conns {
		some := false
		for _, t := range s.o.Connections.Tools(c.Name) {
			if p := s.reach(a, c, t); p.Possible {
				total.count(t, p)
				some = true
			}
		}
		if some {
			total.Connections++
			r := reached[c.Name]
			r.Agents++
			reached[c.Name] = r
		}
	}
	return total
}

func (s *Service) reach(a identity.Agent, c connections.Connection, t connections.Tool) policy.Reach {
	if !t.Callable() {
		return policy.Reach{}
	}
	return s.o.Policy.Reach(policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels},
		policy.Action{Connection: c.Name, Tool: t.Name, Effect: t.Effect, Kind: c.Kind})
}

func (r *Reach) count(t connections.Tool, p policy.Reach) {
	r.Tools++
	switch t.Effect {
	case connections.Read:
		r.Read++
	case connections.Write:
		r.Write++
	default:
		r.Irreversible++
	}
	if p.Held {
		r.Held++
	}
	if p.Conditional {
		r.Conditional++
	}
}

// secretsOf names the secrets that calls of a connection are made with.
func secretsOf(c connections.Connection) []string {
	var out []string
	if c.Secret != "" {
		out = append(out, c.Secret)
	}
	for _, v := range c.Env {
		if ref, ok := strings.CutPrefix(v, "secret://"); ok {
			name, _, _ := strings.Cut(ref, "#")
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// found counts open findings by what they are about.
func (s *Service) found(ctx context.Context) (map[string]Found, error) {
	out := map[string]Found{}
	q := findings.Query{Status: "open", Limit: 1000}
	for range 50 { // fifty thousand open findings need no exact count
		page, err := s.o.Findings.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, f := range page {
			t := out[f.Object]
			t.Open++
			if slices.Index(findings.Severities, f.Severity) > slices.Index(findings.Severities, t.Worst) {
				t.Worst = f.Severity
			}
			out[f.Object] = t
		}
		if len(page) < q.Limit {
			break
		}
		q.Before = page[len(page)-1].ID
	}
	return out, nil
}

// Tree is an agent's blast radius.
type Tree struct {
	Agent       string   `json:"agent"`
	Owner       string   `json:"owner"`
	Stage       string   `json:"stage"`
	Suspended   bool     `json:"suspended"`
	Reach       Reach    `json:"reach"`
	Connections []Branch `json:"connections"`
	Users       []string `json:"users" doc:"people on whose behalf it may act: signed in with it now"`
	Note        string   `json:"note" doc:"how this is to be read"`
}

// Branch is a connection that an agent may call.
type Branch struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Owner   string   `json:"owner"`
	Secrets []Key    `json:"secrets" doc:"what its calls are made with"`
	Tools   []Leaf   `json:"tools" doc:"irreversible first"`
	Shared  []string `json:"shared_with" doc:"other agents that may call the connection, at most 20"`
}

// Key is a secret that a connection's calls are made with. The agent never has
// it.
type Key struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`
	Owner  string   `json:"owner"`
	Hosts  []string `json:"hosts"`
	Exists bool     `json:"exists"`
}

// Leaf is a tool that an agent may call.
type Leaf struct {
	Name   string `json:"name"`
	Effect string `json:"effect"`
	policy.Reach
}

// Note says what the tree leaves open.
const Note = "What may be reached, under conditions: conditions of rules are not evaluated, so less may be possible, never more. " +
	"Delegation adds nothing: every agent of a chain must be allowed the call."

const maxShared = 20

// Tree returns an agent's blast radius.
func (s *Service) Tree(ctx context.Context, name string) (Tree, error) {
	a, ok := s.o.Identity.Agent(name)
	if !ok {
		return Tree{}, ErrNoAgent.Say("there is no agent %.63q", name)
	}
	users, err := s.o.Users(ctx, name)
	if err != nil {
		return Tree{}, err
	}
	t := Tree{Agent: a.Name, Owner: a.Owner, Stage: a.Stage, Suspended: a.Suspended, Connections: []Branch{}, Users: append([]string{}, users...), Note: Note}
	conns := s.o.Connections.Connections()
	t.Reach = s.agentReach(a, conns, map[string]Reach{})
	for _, c := range conns {
		if b := s.branch(a, c); len(b.Tools) > 0 {
			t.Connections = append(t.Connections, b)
		}
	}
	return t, nil
}

func (s *Service) branch(a identity.Agent, c connections.Connection) Branch {
	b := Branch{Name: c.Name, Kind: c.Kind, Owner: c.Owner, Secrets: []Key{}, Tools: []Leaf{}, Shared: []string{}}
	tools := s.o.Connections.Tools(c.Name)
	for _, t := range tools {
		if p := s.reach(a, c, t); p.Possible {
			b.Tools = append(b.Tools, Leaf{t.Name, t.Effect, p})
		}
	}
	if len(b.Tools) == 0 {
		return b
	}
	order := []string{connections.Irreversible, connections.Write, connections.Read}
	slices.SortStableFunc(b.Tools, func(x, y Leaf) int { return slices.Index(order, x.Effect) - slices.Index(order, y.Effect) })
	for _, name := range secretsOf(c) {
		k := Key{Name: name, Hosts: []string{}}
		if sec, ok := s.o.Secrets.Secret(name); ok {
			k.Kind, k.Owner, k.Exists, k.Hosts = sec.Kind, sec.Owner, true, append(k.Hosts, sec.Hosts...)
			if k.Kind == secrets.KindValue {
				k.Kind = "value"
			}
		}
		b.Secrets = append(b.Secrets, k)
	}
	for _, other := range s.o.Identity.Agents() {
		if len(b.Shared) == maxShared {
			break
		}
		if other.Name != a.Name && slices.ContainsFunc(tools, func(t connections.Tool) bool { return s.reach(other, c, t).Possible }) {
			b.Shared = append(b.Shared, other.Name)
		}
	}
	return b
}
