package releases

import (
	"context"
	"slices"
	"strings"
)

// Diff is what differs between two releases.
type Diff struct {
	Agent   string   `json:"agent"`
	From    int64    `json:"from"`
	To      int64    `json:"to" doc:"-1: the agent as it is now"`
	Changes []Change `json:"changes"`
}

// Change is one thing that differs.
type Change struct {
	ID   string `json:"id" doc:"what it is, such as tool/ledger/pay_invoice"`
	What string `json:"what" enum:"added,removed,changed"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Live is the number by which Diff is asked for the agent as it is now.
const Live = -1

// Diff compares two releases of an agent: from 0 is the one in force, to 0 the
// newest, Live the agent as it is now. Of that, only what the store knows is
// compared: tools, grants and policies.
func (s *Service) Diff(ctx context.Context, agent string, from, to int64) (Diff, error) {
	if from == 0 {
		st, err := s.State(ctx, agent)
		if err != nil {
			return Diff{}, err
		}
		if from = st.Active; from == 0 {
			return Diff{}, ErrNotFound.Say("no release of %q is in force; name the one to compare with (--from)", agent)
		}
	}
	a, err := s.Get(ctx, agent, from)
	if err != nil {
		return Diff{}, err
	}
	d := Diff{Agent: agent, From: from, To: to}
	if to == Live {
		now, err := s.live(ctx, agent)
		if err != nil {
			return d, err
		}
		now.Models, now.Prompts, now.Tests = a.Models, a.Prompts, a.Tests
		d.Changes = compare(a.Content, now)
		return d, nil
	}
	b, err := s.Get(ctx, agent, to)
	d.To, d.Changes = b.Number, compare(a.Content, b.Content)
	return d, err
}

// parts are the things in a content, each as text.
func (c Content) parts() map[string]string {
	out := map[string]string{}
	for _, m := range c.Models {
		out["model/"+m] = "pinned"
	}
	for _, p := range c.Prompts {
		out["prompt/sha256:"+p] = "pinned"
	}
	for _, t := range c.Tools {
		out["tool/"+t.path()] = strings.TrimSpace(t.Effect + " " + t.Digest)
	}
	for _, g := range c.Grants {
		out["grant/"+g.Name] = g.text()
	}
	for _, p := range c.Policies {
		out["policy/"+p.Name] = p.Digest
	}
	return out
}

func (g Grant) text() string {
	s := g.Connection + ": " + strings.Join(g.Tools, ", ")
	if g.When != "" {
		s += " when " + g.When
	}
	if !g.Expires.IsZero() {
		s += " until " + g.Expires.UTC().Format("2006-01-02 15:04")
	}
	return s
}

func compare(a, b Content) []Change {
	old, now := a.parts(), b.parts()
	out := []Change{}
	for id, was := range old {
		switch is, there := now[id]; {
		case !there:
			out = append(out, Change{ID: id, What: "removed", From: was})
		case is != was:
			out = append(out, Change{ID: id, What: "changed", From: was, To: is})
		}
	}
	for id, is := range now {
		if _, there := old[id]; !there {
			out = append(out, Change{ID: id, What: "added", To: is})
		}
	}
	slices.SortFunc(out, func(x, y Change) int { return strings.Compare(x.ID, y.ID) })
	return out
}
