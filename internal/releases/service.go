package releases

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
)

// Version is the name under which changes of releases are announced.
const Version = "releases"

// Options of a Service. DB, Log, Watch, Identity, Connections, Policy and
// Findings must be set.
type Options struct {
	DB          *storage.DB
	Log         *audit.Log
	Watch       *storage.Watcher
	Identity    *identity.Service
	Connections *connections.Service
	Policy      *policy.Service
	Locks       *locks.Service // nil locks nothing
	Findings    *findings.Service
	Rooms       Rooms // what the gate asks of others
	// Required refuses every call of an agent in production that no promoted
	// release binds.
	Required bool
	Now      func() time.Time
	Logger   *slog.Logger // discards if nil
}

// Service is the room's verbs and its view of the releases in force. It is safe
// for concurrent use.
type Service struct {
	o    Options
	view atomic.Pointer[map[string]*standing]
}

// New returns a Service and registers its view with the watcher.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o}
	s.view.Store(&map[string]*standing{})
	o.Watch.On(Version, s.reload)
	return s
}

func (s *Service) reload(ctx context.Context) error {
	states, err := readStates(ctx, s.o.DB, "")
	if err != nil {
		return err
	}
	next := make(map[string]*standing, len(states))
	for _, st := range states {
		one := &standing{State: st}
		for number, at := range map[int64]**pin{st.Active: &one.active, st.Canary: &one.canary} {
			if number == 0 {
				continue
			}
			r, err := readRelease(ctx, s.o.DB, st.Agent, number)
			if err != nil {
				return err
			}
			*at = newPin(r)
		}
		next[st.Agent] = one
	}
	s.view.Store(&next)
	return nil
}

// change commits what fn does with its events and brings the view up to date.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	if err := s.o.Log.Change(ctx, fn); err != nil {
		return err
	}
	if err := s.o.Watch.Poll(ctx); err != nil {
		// The change stands; the watcher refuses calls until it can look again.
		s.o.Logger.Warn("releases changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

// Spec is what people say of a release; the rest is the agent's live state.
type Spec struct {
	Models  []string      // those that the agent used in the last 30 days if nil
	Prompts []string      // digests of system prompts
	Tests   []policy.Case // of the release before if nil
}

// Create makes a release of what an agent is now. It puts nothing in force. Needs
// a reason.
func (s *Service) Create(ctx context.Context, by audit.Actor, reason, agent string, spec Spec) (Release, error) {
	if err := checkReason(reason); err != nil {
		return Release{}, err
	}
	c, err := s.live(ctx, agent)
	if err != nil {
		return Release{}, err
	}
	if err := s.said(ctx, &c, agent, spec); err != nil {
		return Release{}, err
	}
	if err := c.check(); err != nil {
		return Release{}, err
	}
	c.tidy()
	content, digest, err := c.seal()
	if err != nil {
		return Release{}, err
	}
	r := Release{ID: id.New(ID), Agent: agent, Digest: digest, Reason: reason, By: by.Name, Created: storage.Time(storage.Micros(s.o.Now())), Content: c}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if err := insertRelease(ctx, tx, &r, content); err != nil {
			return err
		}
		tx.Record(audit.Event{Type: "release.created", Actor: by, Object: "agent/" + agent, Agent: agent, Reason: reason,
			Detail: detail(map[string]any{"release": r.Number, "digest": digest, "tools": len(c.Tools), "models": c.Models, "prompts": len(c.Prompts)})},
			audit.Payload{Name: "release", Body: []byte(content)})
		return nil
	})
	return r, err
}

// said puts what people said, or what is known for what they did not, into a content.
func (s *Service) said(ctx context.Context, c *Content, agent string, spec Spec) error {
	c.Models, c.Prompts, c.Tests = spec.Models, spec.Prompts, spec.Tests
	var err error
	if c.Models == nil {
		if c.Models, err = s.used(ctx, agent); err != nil {
			return err
		}
	}
	if c.Tests != nil {
		return nil
	}
	before, err := readReleases(ctx, s.o.DB, ` WHERE agent = $1 ORDER BY number DESC LIMIT 1`, agent)
	if err == nil && len(before) > 0 {
		c.Tests = before[0].Tests
	}
	return err
}

// live returns what an agent may use and is governed by now. Models, prompts and
// tests are not in it.
func (s *Service) live(ctx context.Context, agent string) (Content, error) {
	if err := s.o.Watch.Poll(ctx); err != nil { // what is pinned must be what is in the store
		return Content{}, err
	}
	a, ok := s.o.Identity.Agent(agent)
	if !ok {
		return Content{}, ErrNoAgent.Say("there is no agent %q", agent)
	}
	who := policyAgent(a)
	var c Content
	for _, conn := range s.o.Connections.Connections() {
		for _, t := range s.o.Connections.Tools(conn.Name) {
			if t.Callable() && s.o.Policy.Reach(who, policy.Action{Connection: conn.Name, Tool: t.Name, Effect: t.Effect, Kind: conn.Kind}).Possible {
				c.Tools = append(c.Tools, Tool{conn.Name, t.Name, t.Digest, t.Effect})
			}
		}
	}
	grants, err := s.o.Policy.Grants(ctx, agent)
	if err != nil {
		return Content{}, err
	}
	for _, g := range grants {
		c.Grants = append(c.Grants, Grant{g.Name, g.Connection, g.Tools, g.When, g.Expires})
	}
	files, err := s.o.Policy.Concerns(ctx, who)
	for _, f := range files {
		if f.About {
			c.Policies = append(c.Policies, Policy{Name: f.Name, Digest: sum(f.Text), Text: f.Text, Own: f.Own})
		}
	}
	c.tidy()
	return c, err
}

// usedWithin is how long ago a model's use counts.
const usedWithin = 30 * 24 * time.Hour

// used returns the models that an agent asked for, as CONNECTION/MODEL, from the
// newest 1,000 of its calls.
func (s *Service) used(ctx context.Context, agent string) ([]string, error) {
	recs, err := s.o.Log.List(ctx, audit.Query{Agent: agent, Types: []audit.Type{audit.CallIntent}, Since: s.o.Now().Add(-usedWithin), Limit: 1000, Payloads: true})
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, r := range recs {
		c, ok := s.o.Connections.Connection(r.Event.Connection)
		var asked struct {
			Model string `json:"model"`
		}
		if !ok || c.Kind != connections.LLM || json.Unmarshal(r.Payloads["arguments"], &asked) != nil || asked.Model == "" {
			continue
		}
		if m := c.Name + "/" + asked.Model; !slices.Contains(out, m) && len(out) < maxModels {
			out = append(out, m)
		}
	}
	return out, nil
}

// List returns the releases of an agent, or of all, the newest first.
func (s *Service) List(ctx context.Context, agent string) ([]Release, error) {
	return readReleases(ctx, s.o.DB, ` WHERE $1 = '' OR agent = $1 ORDER BY agent, number DESC`, agent)
}

// Get returns a release; of number 0 the newest.
func (s *Service) Get(ctx context.Context, agent string, number int64) (Release, error) {
	if number != 0 {
		return readRelease(ctx, s.o.DB, agent, number)
	}
	found, err := readReleases(ctx, s.o.DB, ` WHERE agent = $1 ORDER BY number DESC LIMIT 1`, agent)
	switch {
	case err != nil:
		return Release{}, err
	case len(found) == 0:
		return Release{}, ErrNotFound.Say("there is no release of %q; countersign release create %s makes one", agent, agent)
	}
	return found[0], nil
}

// State returns which release of an agent is in force, and Moves what was done,
// the latest first.
func (s *Service) State(ctx context.Context, agent string) (State, error) {
	return readState(ctx, s.o.DB, agent)
}

// Moves returns what was done with an agent's releases, the latest first.
func (s *Service) Moves(ctx context.Context, agent string) ([]Move, error) {
	return readMoves(ctx, s.o.DB, agent)
}

// BeforeDelete removes, in the same change, the releases of an agent that is being
// deleted, so that a later namesake does not inherit them. The log keeps them.
func (s *Service) BeforeDelete(ctx context.Context, tx *audit.Tx, _ audit.Actor, _, object string) error {
	agent, ok := strings.CutPrefix(object, "agent/")
	if !ok {
		return nil
	}
	if err := forget(ctx, tx, agent); err != nil {
		return err
	}
	return storage.Bump(ctx, tx.Tx, Version)
}

// detail returns v, plain values of ours, as an event's detail.
func detail(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil // cannot be: checked texts and numbers
	}
	return b
}
