package reach

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/use"
)

// ErrAsk is returned when an upstream cannot be asked, or gives no answer that can
// be read.
var ErrAsk = fault.New(fault.Upstream, "cannot_ask", "the upstream could not be asked what its credential can reach")

// Within is how long all requests about one connection may take together.
const Within = 30 * time.Second

// Who says what of a right.
const (
	Upstream   = "upstream"
	Credential = "credential"
	Settings   = "settings"
)

// Line is the way of calls of our own; gateway.Gateway is one.
type Line interface {
	Reach(ctx context.Context, by audit.Actor, reason string, call *gateway.Call) (*gateway.Answer, error)
}

// Engines asks retrieval engines; gateway/retrieval does.
type Engines interface {
	Told(ctx context.Context, by audit.Actor, c connections.Connection) (Told, error)
}

// Options of a Service. All but Now must be set.
type Options struct {
	Line    Line
	Tools   *connections.Service
	MCP     connections.Discoverer
	Engines Engines
	Uses    func(ctx context.Context, q use.Query) ([]use.Use, use.Watched, error)
	// Claims returns the scopes that a secret states of itself (secrets.Claims).
	Claims func(secret string) (settings, stated []string)
	Redact func(b []byte) []byte
	Now    func() time.Time
}

// Service is the room's verb. It is safe for concurrent use.
type Service struct{ o Options }

// New returns a Service.
func New(o Options) *Service {
	if o.Line == nil || o.Tools == nil || o.MCP == nil || o.Engines == nil || o.Uses == nil || o.Claims == nil || o.Redact == nil {
		panic("reach: all options but Now must be set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o}
}

// Reach is what the identity behind a connection could do, beside what was used.
type Reach struct {
	Connection string    `json:"connection"`
	Kind       string    `json:"kind"`
	Dialect    string    `json:"dialect,omitempty"`
	Owner      string    `json:"owner"`
	Secret     string    `json:"secret,omitempty" doc:"the credential's name; absent: it signs in with none of its own"`
	ReadOnly   bool      `json:"read_only" doc:"nothing that agents are let to through it changes anything"`
	Asked      time.Time `json:"asked"`
	Told
	Since   time.Time `json:"since" doc:"calls are counted from here on"`
	Behind  int64     `json:"behind,omitempty" doc:"events that were recorded and not counted yet"`
	Unused  int       `json:"unused" doc:"things that could be reached and were not, as far as use is counted"`
	Excess  int       `json:"excess" doc:"things and rights that can change something although the connection only reads"`
	Callers []Caller  `json:"callers" doc:"agents that called, by tool"`
}

// Caller is what an agent did with a tool.
type Caller struct {
	Agent string    `json:"agent"`
	Tool  string    `json:"tool"`
	Calls int64     `json:"calls"`
	Last  time.Time `json:"last"`
}

// Show asks the upstream of a connection, in the name of by, what its credential
// can reach, and lays beside it what agents used in the last days days.
func (s *Service) Show(ctx context.Context, by audit.Actor, name string, days int) (Reach, error) {
	c, ok := s.o.Tools.Connection(name)
	if !ok {
		return Reach{}, connections.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, Within)
	defer cancel()
	now := s.o.Now().UTC()
	r := Reach{Connection: c.Name, Kind: c.Kind, Dialect: c.Dialect, Owner: c.Owner, Secret: c.Secret, Asked: now, ReadOnly: s.readOnly(c), Since: now.AddDate(0, 0, -days), Callers: []Caller{}}
	var err error
	if r.Told, err = s.ask(ctx, by, c); err != nil {
		if ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return Reach{}, ErrAsk.Say("the upstream did not tell within %s what its credential can reach", Within).With(err)
		}
		return Reach{}, err
	}
	r.plain(s.o.Redact)
	r.finish()
	uses, w, err := s.o.Uses(ctx, use.Query{Connection: name, Pairs: true, Since: r.Since})
	if err != nil {
		return Reach{}, err
	}
	if w.Since.After(r.Since) {
		r.Since = w.Since
	}
	r.Behind = w.Behind
	r.beside(uses)
	return r, nil
}

// readOnly reports whether nothing that agents may call through the connection
// changes anything.
func (s *Service) readOnly(c connections.Connection) bool {
	if c.Kind == connections.Retrieval {
		return true
	}
	any := false
	for _, t := range s.o.Tools.Tools(c.Name) {
		if !t.Offered() || !t.Callable() || t.Builtin && c.Kind == connections.MCP {
			continue
		}
		if any = true; t.Effect != connections.Read {
			return false
		}
	}
	return any
}

// ask asks as the kind of the connection is asked.
func (s *Service) ask(ctx context.Context, by audit.Actor, c connections.Connection) (Told, error) {
	var t Told
	s.claimed(c, &t)
	var err error
	switch {
	case c.Kind == connections.Retrieval:
		var told Told
		told, err = s.o.Engines.Told(ctx, by, c)
		told.Rights = append(t.Rights, told.Rights...)
		t = told
	case c.Kind == connections.MCP:
		err = s.tools(ctx, by, c, &t)
	case c.Kind == connections.LLM:
		s.operations(c, &t)
		err = s.models(ctx, by, c, &t)
	case c.Dialect == connections.Git:
		s.operations(c, &t)
		err = s.forge(ctx, by, c, &t)
	default:
		s.operations(c, &t)
		t.Unknowable("operations of the API that nobody listed or imported here")
		err = s.api(ctx, by, c, &t)
	}
	return t, err
}

// claimed tells what the credential says of itself.
func (s *Service) claimed(c connections.Connection, t *Told) {
	for _, name := range c.SecretNames() {
		settings, stated := s.o.Claims(name)
		for _, x := range settings {
			t.Right(Right{Name: x, From: Settings, Write: changes(x)})
		}
		for _, x := range stated {
			t.Right(Right{Name: x, From: Credential, Write: changes(x)})
		}
	}
}

// tools tells all tools that an MCP server lists, those that nobody accepted, too.
func (s *Service) tools(ctx context.Context, by audit.Actor, c connections.Connection, t *Told) error {
	defs, err := s.o.MCP.Discover(ctx, by, c)
	if err != nil {
		return err
	}
	listed, err := s.o.Tools.Compare(c.Name, defs)
	if err != nil {
		return err
	}
	for _, l := range listed {
		status := map[connections.Verdict]string{connections.Same: connections.StatusPinned, connections.Changed: connections.StatusDrifted, connections.Unknown: connections.StatusNew}[l.Verdict]
		t.Add(Thing{Kind: Tool, Name: l.Name, Rights: []string{l.Effect}, Write: l.Effect != connections.Read, Status: status, Open: l.Verdict == connections.Same})
	}
	t.Unknowable("what the server's own credentials can do beyond its tools: the protocol does not tell")
	return nil
}

// operations tells what the connection offers to agents by our own list.
func (s *Service) operations(c connections.Connection, t *Told) {
	for _, x := range s.o.Tools.Tools(c.Name) {
		if x.Offered() {
			t.Add(Thing{Kind: Operation, Name: x.Name, Rights: []string{x.Effect}, Write: x.Effect != connections.Read, Status: x.Status, Open: x.Callable()})
		}
	}
}

// finish marks what goes beyond a connection that only reads.
func (r *Reach) finish() {
	r.Unknown = append([]string{}, r.Unknown...)
	for i := range r.Rights {
		if x := &r.Rights[i]; x.Write && r.ReadOnly {
			x.Excess = true
			r.Excess++
		}
	}
	for i := range r.Things {
		if x := &r.Things[i]; x.Write && r.ReadOnly {
			x.Excess = true
			r.Excess++
		}
	}
}

// beside lays what was used beside what could be.
func (r *Reach) beside(uses []use.Use) {
	by := map[string]*Thing{}
	whole := &Thing{Calls: new(int64)} // of the connection
	for i := range r.Things {
		switch x := &r.Things[i]; x.Kind {
		case Tool, Operation:
			x.Calls = new(int64)
			by[x.Name] = x
		case Table, Index, Collection:
			x.Calls = new(int64)
		case Database:
			x.Calls = new(int64) // a call goes to the connection's own, whose tables are listed
		}
	}
	for _, u := range uses {
		if u.Allowed == 0 || u.Agent == "" {
			continue
		}
		r.Callers = append(r.Callers, Caller{u.Agent, u.Tool, u.Allowed, u.LastAllowed})
		if x := by[u.Tool]; x != nil {
			x.used(u)
		}
		if r.Kind == connections.Retrieval {
			whole.used(u)
		}
	}
	slices.SortStableFunc(r.Callers, func(a, b Caller) int { return cmp.Compare(b.Calls, a.Calls) })
	for i := range r.Things {
		x := &r.Things[i]
		if x.Open && (x.Kind == Table || x.Kind == Index || x.Kind == Collection) {
			x.Calls, x.Last, x.Agents = whole.Calls, whole.Last, whole.Agents
		}
		if x.Calls != nil && *x.Calls == 0 {
			r.Unused++
		}
	}
}

func (x *Thing) used(u use.Use) {
	*x.Calls += u.Allowed
	if u.LastAllowed.After(x.Last) {
		x.Last = u.LastAllowed
	}
	if !slices.Contains(x.Agents, u.Agent) {
		x.Agents = append(x.Agents, u.Agent)
	}
}
