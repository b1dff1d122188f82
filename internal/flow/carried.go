package flow

import (
	"context"
	"slices"
)

// mostFrom is how many runs a run may lead back to. With more, it counts as
// having read untrusted content.
const mostFrom = 32

// Continues remembers, durably, that a run continues others: what they read, and
// will read, labels it.
func (s *Service) Continues(ctx context.Context, name string, from []string) error {
	return s.with(ctx, name, func(r *run) error {
		for _, other := range from {
			if other == name || slices.Contains(r.m.from, other) || len(r.m.from) > mostFrom {
				continue
			}
			if err := s.keep(ctx, name, r, entry{From: other}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Carried is what runs bring into a call that did not read it itself.
type Carried struct {
	Untrusted    bool
	Labels       []string
	Confidential [][]string
}

// All returns the labels, Untrusted among them.
func (c Carried) All() []string {
	if c.Untrusted {
		return united(c.Labels, []string{Untrusted})
	}
	return c.Labels
}

// Carrying returns the judgement of a call into which more is brought.
func (j Judgement) Carrying(c Carried) Judgement {
	j.Untrusted = j.Untrusted || c.Untrusted
	j.Labels = united(j.Labels, c.Labels)
	j.Confidential = append(slices.Clip(j.Confidential), c.Confidential...)
	return j
}

// Carries returns what a run has read, and what the runs have read that it
// continues.
func (s *Service) Carries(ctx context.Context, name string) (Carried, error) {
	return s.carried(ctx, "", []string{name})
}

// carried gathers what runs have read and all that they continue; not of name,
// whose is known.
func (s *Service) carried(ctx context.Context, name string, from []string) (c Carried, err error) {
	seen := map[string]bool{name: true}
	for len(from) > 0 {
		next := from[0]
		from = from[1:]
		if seen[next] {
			continue
		}
		if len(seen) > mostFrom {
			c.Untrusted = true
			return c, nil
		}
		seen[next] = true
		err := s.with(ctx, next, func(r *run) error {
			c.Untrusted = c.Untrusted || r.m.untrusted
			c.Labels = united(c.Labels, r.m.labels)
			c.Confidential = append(c.Confidential, r.m.secret...)
			from = append(from, r.m.from...)
			return nil
		})
		if err != nil {
			c.Untrusted = true
			return c, err
		}
	}
	return c, nil
}

// united returns the labels of both, in order, each once.
func united(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}
