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

// Carries returns the labels of what a run has read, Untrusted among them, and of
// what the runs have read that it continues.
func (s *Service) Carries(ctx context.Context, name string) ([]string, error) {
	untrusted, labels, err := s.carried(ctx, "", []string{name})
	if untrusted {
		labels = united(labels, []string{Untrusted})
	}
	return labels, err
}

// carried gathers the labels of runs and of all that they continue; not of name,
// whose are known.
func (s *Service) carried(ctx context.Context, name string, from []string) (untrusted bool, labels []string, err error) {
	seen := map[string]bool{name: true}
	for len(from) > 0 {
		next := from[0]
		from = from[1:]
		if seen[next] {
			continue
		}
		if len(seen) > mostFrom {
			return true, labels, nil
		}
		seen[next] = true
		err := s.with(ctx, next, func(r *run) error {
			untrusted = untrusted || r.m.untrusted
			labels = united(labels, r.m.labels)
			from = append(from, r.m.from...)
			return nil
		})
		if err != nil {
			return true, labels, err
		}
	}
	return untrusted, labels, nil
}

// united returns the labels of both, in order, each once.
func united(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}
