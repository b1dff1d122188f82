package releases

import (
	"context"
	"errors"
	"slices"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/policy"
)

// giver is what a move gives grants back by.
type giver struct {
	may   bool // whoever moves may give grants anyway
	left  Release
	moves []Move
}

// giver says what a move of an agent away from a release may give back. Of number
// 0 there is none that is left.
func (s *Service) giver(ctx context.Context, tx *audit.Tx, agent string, left int64, may bool) (giver, error) {
	g := giver{may: may}
	var err error
	if g.moves, err = readMoves(ctx, tx, agent); err == nil && left > 0 {
		g.left, err = readRelease(ctx, tx, agent, left)
	}
	return g, err
}

// wanted are the grants of a release that its agent is to have. Not among them are
// those that are gone because a review revoked them, and those that a person
// revoked or narrowed by hand: these stay as they are. What people took away on
// purpose is not undone beside.
func (s *Service) wanted(ctx context.Context, tx *audit.Tx, r Release, from giver, out *Restored) (want []policy.Grant, err error) {
	var withheld map[string]bool
	if s.o.Rooms.Withheld != nil {
		if withheld, err = s.o.Rooms.Withheld(ctx, tx, r.Agent); err != nil {
			return nil, err
		}
	}
	for _, g := range r.Grants {
		now, err := s.o.Policy.GrantTx(ctx, tx, g.Name)
		there := err == nil
		if err != nil && !errors.Is(err, policy.ErrNoGrant) {
			return nil, err
		}
		if !there && withheld[g.Name] {
			out.Withheld = append(out.Withheld, g.Name)
			continue
		}
		if there && !g.wider(now) {
			want = append(want, g.wire(r.Agent))
			continue
		}
		hand, err := s.byHand(ctx, tx, r, g.Name, now, from)
		switch {
		case err != nil:
			return nil, err
		case !hand:
			want = append(want, g.wire(r.Agent))
			continue
		case there:
			want = append(want, now)
		}
		out.ByHand = append(out.ByHand, g.Name)
	}
	return want, nil
}

// byHand reports whether a grant of r is as it is now, or gone, because a person
// revoked or narrowed it, and stays so. It does not if a move of a release did
// that. Nor does it if that was part of the release that is left, which was made
// later of what the agent had then, and whoever moves may give grants.
func (s *Service) byHand(ctx context.Context, tx *audit.Tx, r Release, name string, now policy.Grant, from giver) (bool, error) {
	all, err := s.o.Policy.GrantHistoryTx(ctx, tx, name)
	if err != nil {
		return false, err
	}
	if len(all) > 0 && slices.ContainsFunc(from.moves, func(m Move) bool { return m.took[name] == all[0].Version }) {
		return false, nil
	}
	return !from.may || from.left.Number <= r.Number || !from.left.has(name, now), nil
}

// has reports whether a content has a grant as it is now; one without a name is
// that there is none.
func (c Content) has(name string, now policy.Grant) bool {
	i := slices.IndexFunc(c.Grants, func(g Grant) bool { return g.Name == name })
	if i < 0 || now.Name == "" {
		return i < 0 && now.Name == ""
	}
	g := c.Grants[i]
	return g.Connection == now.Connection && slices.Equal(g.Tools, now.Tools) && g.When == now.When && g.Expires.Equal(now.Expires)
}

// wider reports whether g allows anything that a grant does not. Of conditions
// only those that are equal count as no wider.
func (g Grant) wider(than policy.Grant) bool {
	switch {
	case g.Connection != than.Connection, than.When != "" && g.When != than.When:
		return true
	case !than.Expires.IsZero() && (g.Expires.IsZero() || g.Expires.After(than.Expires)):
		return true
	case slices.Contains(than.Tools, "*"):
		return false
	}
	return slices.ContainsFunc(g.Tools, func(t string) bool { return !slices.Contains(than.Tools, t) })
}

// took returns the versions that a move made of grants.
func (s *Service) took(ctx context.Context, tx *audit.Tx, r Restored) (map[string]int64, error) {
	out := map[string]int64{}
	for _, name := range slices.Concat(r.Given, r.Revoked) {
		all, err := s.o.Policy.GrantHistoryTx(ctx, tx, name)
		if err != nil {
			return nil, err
		}
		if len(all) > 0 {
			out[name] = all[0].Version
		}
	}
	return out, nil
}
