package policy

import (
	"context"
	"encoding/json/v2"
	"errors"
	"slices"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// ErrTaken is returned when a grant that is to come back has a name that another
// agent's grant has now.
var ErrTaken = ErrChanged.Say("the name of the grant belongs to a grant of another agent now")

// Concern is a policy file and what it has to do with an agent.
type Concern struct {
	File
	About   bool // the agent is in the scope of a policy in it, whatever its conditions
	Own     bool // every policy in it is about this agent alone
	Forbids bool // one of them forbids or holds
}

// Concerns returns every saved file and what it has to do with an agent, by name.
func (s *Service) Concerns(ctx context.Context, a Agent) ([]Concern, error) {
	return s.concerns(ctx, s.db, a)
}

// ConcernsTx is Concerns inside a change.
func (s *Service) ConcernsTx(ctx context.Context, tx *audit.Tx, a Agent) ([]Concern, error) {
	return s.concerns(ctx, tx, a)
}

func (s *Service) concerns(ctx context.Context, q querier, a Agent) ([]Concern, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, ErrNotReady
	}
	files, err := readFiles(ctx, q, "")
	if err != nil {
		return nil, err
	}
	w := newWorld(e.ts, &a)
	out := make([]Concern, 0, len(files))
	for _, f := range files {
		rules, _ := parseFile(f.Name, f.Text)
		c := Concern{File: f, Own: len(rules) > 0, About: len(rules) == 0} // one that cannot be read is about everybody, by denying
		for _, r := range rules {
			p, named := principalKey(r)
			c.About = c.About || !named || slices.Contains(w.keys, p)
			c.Own, c.Forbids = c.Own && named && p == w.uid, c.Forbids || r.forbid
		}
		out = append(out, c)
	}
	return out, nil
}

// RestoreTx saves a text that a policy file once had as its next version, inside a
// change, and reports whether that changed anything. It must parse; what of it does
// not fit the tools of now denies the calls that it is about until somebody
// revises it. Whoever commits it polls the watcher.
func (s *Service) RestoreTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name, text string) (bool, error) {
	if !fileName.MatchString(name) {
		return false, ErrName
	}
	old, err := readFiles(ctx, tx, ` WHERE p.name = $1`, name)
	if err != nil || len(old) == 1 && old[0].Text == text {
		return false, err
	}
	if _, problems := parseFile(name, text); len(problems) > 0 {
		return false, refuse(problems)
	}
	return true, s.saveFile(ctx, tx, by, reason, name, text, len(old) == 1)
}

// RestoreGrantsTx gives an agent exactly the grants in want, inside a change: what
// it has beside them is revoked, and what has expired meanwhile stays away. It
// returns the names of both kinds. Whoever commits it polls the watcher.
func (s *Service) RestoreGrantsTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string, want []Grant) (given, revoked []string, err error) {
	have, err := readGrants(ctx, tx, ` WHERE agent = $1`, agent)
	if err != nil {
		return nil, nil, err
	}
	var gone []grantRow
	for _, h := range have {
		if !slices.ContainsFunc(want, func(g Grant) bool { return g.Name == h.Name }) {
			gone, revoked = append(gone, h), append(revoked, h.Name)
		}
	}
	if err := s.revoke(ctx, tx, by, reason, gone); err != nil {
		return nil, nil, err
	}
	for _, g := range want {
		changed, err := s.restoreGrant(ctx, tx, by, reason, agent, g)
		if err != nil {
			return nil, nil, err
		}
		if changed {
			given = append(given, g.Name)
		}
	}
	return given, revoked, nil
}

// MayGiveTx reports whether the guard lets a grant be given, or the agent has it as
// it is already.
func (s *Service) MayGiveTx(ctx context.Context, tx *audit.Tx, g Grant) (bool, error) {
	g.Expires = micros(g.Expires)
	old, err := readGrants(ctx, tx, ` WHERE name = $1`, g.Name)
	if err != nil {
		return false, err
	}
	err = s.guard.ask(ctx, tx, g, old)
	if errors.Is(err, ErrStanding) {
		return false, nil
	}
	return err == nil, err
}

func (s *Service) restoreGrant(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string, g Grant) (bool, error) {
	g.Agent, g.Expires = agent, micros(g.Expires)
	if !g.Expires.IsZero() && !g.Expires.After(s.o.Now()) {
		return false, nil
	}
	if _, problems := g.compile(); len(problems) > 0 {
		return false, refuse(problems)
	}
	old, err := readGrants(ctx, tx, ` WHERE name = $1`, g.Name)
	switch {
	case err != nil:
		return false, err
	case len(old) == 1 && old[0].Agent != agent:
		return false, ErrTaken.Say("the grant %q belongs to the agent %s now, so it cannot be given back to %s; rename that one first", g.Name, old[0].Agent, agent)
	case len(old) == 1 && old[0].same(g):
		return false, nil
	}
	if err := s.guard.ask(ctx, tx, g, old); err != nil {
		return false, err
	}
	return true, s.saveGrant(ctx, tx, by, reason, g, old)
}

// saveFile writes a policy file's next version with its event.
func (s *Service) saveFile(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name, text string, update bool) error {
	last, err := lastVersion(ctx, tx, name)
	if err != nil {
		return err
	}
	v := Version{Version: last + 1, Text: text, SavedBy: by.Name, Reason: reason, Saved: micros(s.o.Now())}
	f := File{ID: id.New(id.Policy), Name: name, Version: v.Version, Text: text}
	if err := writeVersion(ctx, tx, name, v); err != nil {
		return err
	}
	if err := writeFile(ctx, tx, f); err != nil {
		return err
	}
	kind := audit.Type("policy.created")
	if update {
		kind = "policy.updated"
	}
	tx.Record(audit.Event{Type: kind, Actor: by, Object: "policy/" + name, Reason: reason, Detail: detail(map[string]any{
		"version": v.Version, "sha256": digest(text),
	})}, audit.Payload{Name: "text", Body: []byte(text)})
	return storage.Bump(ctx, tx.Tx, version)
}

// saveGrant writes a checked grant with its event; old is what has its name.
func (s *Service) saveGrant(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, g Grant, old []grantRow) error {
	tools, err := json.Marshal(g.Tools)
	if err != nil {
		return err
	}
	g.GivenBy, g.Reason = by.Name, reason
	kind := audit.Type("grant.given")
	if len(old) == 1 {
		kind, g.ID, g.Created = "grant.changed", old[0].ID, old[0].Created
		err = updateGrant(ctx, tx, g, string(tools), old[0].revision)
	} else {
		g.ID, g.Created = id.New(id.Grant), micros(s.o.Now())
		err = insertGrant(ctx, tx, g, string(tools))
	}
	if err != nil {
		return err
	}
	if err := keepGrant(ctx, tx, g, false, by.Name, reason, s.o.Now()); err != nil {
		return err
	}
	tx.Record(g.event(kind, by, reason))
	return storage.Bump(ctx, tx.Tx, version)
}
