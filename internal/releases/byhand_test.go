package releases_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// hands is an agent with a release that has the grants "spare" and "both", and
// another after it. changed is what people do before that is made, later what they
// do after it is in force.
func hands(t *testing.T, dsn string, changed, later func(*replica)) *replica {
	t.Helper()
	r := join(t, dsn)
	r.business()
	r.grant("spare", "ledger", "pay")
	r.grant("both", "ledger", "pay", "read")
	r.release(spec(), releases.Ask{})
	changed(r)
	r.release(spec(), releases.Ask{})
	later(r)
	return r
}

// tools returns the tools of a grant of the agent; none if it has no such grant.
func (r *replica) tools(name string) []string {
	r.t.Helper()
	all, err := r.policy.Grants(ctx, "payer")
	r.must(err)
	for _, g := range all {
		if g.Name == name {
			return g.Tools
		}
	}
	return nil
}

// What a person revoked or narrowed by hand comes back with no release, unless it
// was part of the release that is left and whoever rolls back may give grants
// anyway. What a release took away does come back.
func TestWhatPeopleRevokedStaysRevoked(t *testing.T) {
	nothing := func(*replica) {}
	revoke := func(r *replica) {
		r.must(r.policy.RevokeGrant(ctx, oskar, why, "spare"))
		r.grant("both", "ledger", "read")
	}
	pay, both := []string{"pay"}, []string{"pay", "read"}
	for name, c := range map[string]struct {
		changed, later func(*replica)
		gives          bool
		spare, both    []string
		byHand         []string
	}{
		"after it was in force, an operator":   {nothing, revoke, true, nil, []string{"read"}, []string{"both", "spare"}},
		"after it was in force, the owner":     {nothing, revoke, false, nil, []string{"read"}, []string{"both", "spare"}},
		"to make the release, an operator":     {revoke, nothing, true, pay, both, []string{}},
		"to make the release, the owner":       {revoke, nothing, false, nil, []string{"read"}, []string{"both", "spare"}},
		"to make it, and given back, by owner": {revoke, func(r *replica) { r.grant("spare", "ledger", "pay") }, false, pay, []string{"read"}, []string{"both"}},
		"nothing was revoked":                  {nothing, nothing, false, pay, both, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			r := hands(t, storagetest.SQLite(t), c.changed, c.later)
			m, err := r.Rollback(ctx, olga, why, releases.Back{Agent: "payer", Gives: c.gives})
			r.must(err)
			if m.Number != 1 || !slices.Equal(m.Restored.ByHand, c.byHand) || !slices.Equal(r.tools("spare"), c.spare) || !slices.Equal(r.tools("both"), c.both) {
				t.Errorf("%+v, has %v and %v", m.Restored, r.tools("spare"), r.tools("both"))
			}
			for _, name := range c.byHand { // as is said, this gives it back
				r.must(second(r.policy.RollbackGrant(ctx, oskar, why, name, 0)))
			}
			if !slices.Equal(r.tools("spare"), pay) || !slices.Equal(r.tools("both"), both) {
				t.Errorf("given back by hand: %v and %v", r.tools("spare"), r.tools("both"))
			}
		})
	}
}

// A promotion of an old release gives nothing back that was revoked since it was
// made, and a canary nothing that was revoked since the release in force was.
func TestAPromotionGivesNothingBack(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		r := hands(t, dsn, func(*replica) {}, func(r *replica) { r.must(r.policy.RevokeGrant(ctx, oskar, why, "spare")) })
		for _, ask := range []releases.Ask{{Number: 1, Stage: identity.Development, Gives: true}, {Number: 2, Percent: 50, Gives: true}} {
			ask.Agent = "payer"
			r.must(second(r.Promote(ctx, olga, why, ask)))
			if r.tools("spare") != nil {
				t.Errorf("%+v gives back what was revoked", ask)
			}
		}
		r.must(second(r.Rollback(ctx, olga, why, releases.Back{Agent: "payer", Gives: true})))
		if r.tools("spare") != nil {
			t.Error("the end of a canary gives back what was revoked")
		}

		// A move that revokes gives back what it took, whoever asks.
		r.grant("late", "ledger", "pay")
		r.release(spec(), releases.Ask{})
		r.must(second(r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 1, Stage: identity.Development})))
		if r.tools("late") != nil {
			t.Error("release 1 has a later grant")
		}
		r.must(second(r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 3, Stage: identity.Development})))
		if !slices.Equal(r.tools("late"), []string{"pay"}) {
			t.Error("what a promotion took did not come back with its release")
		}
	})
}

// Calls know when the release that bound them was rolled back: on every replica,
// but not what came after, nor what another release binds.
func TestARollbackEndsWhatItsReleaseBound(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		r := join(t, dsn)
		r.business()
		q := releases.Question{Agent: "payer", Stage: identity.Development, Connection: "ledger", Tool: "read", Run: runs(true, 1)[0]}
		bound := func() releases.Bound {
			t.Helper()
			b, _ := r.Check(&q)
			return b
		}
		none := bound()
		r.release(spec(), releases.Ask{})
		first := bound()
		r.release(spec(), releases.Ask{})
		later := bound()
		q.Free = true
		free := bound()
		q.Free = false
		if r.Stands("payer", first) != nil || r.Stands("payer", later) != nil {
			t.Error("a promotion cuts calls")
		}
		r.must(second(r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 1, Percent: 100})))
		canary := bound()
		r.must(second(r.Rollback(ctx, olga, why, releases.Back{Agent: "payer"})))
		if r.Stands("payer", canary) == nil || r.Stands("payer", later) != nil {
			t.Error("the end of a canary cuts what it bound, and nothing else")
		}
		r.must(second(r.Rollback(ctx, olga, why, releases.Back{Agent: "payer"})))
		for name, c := range map[string]struct {
			b   releases.Bound
			cut bool
		}{"no release": {none, false}, "release 2": {later, true}, "an undo": {free, false}, "release 1 now": {bound(), false}} {
			if err := r.Stands("payer", c.b); (err != nil) != c.cut {
				t.Errorf("%s: %v", name, err)
			}
		}
		r.must(second(r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 2, Stage: identity.Development})))
		if r.Stands("payer", later) == nil || r.Stands("payer", bound()) != nil {
			t.Error("a release that is promoted again revives what was cut, or cuts what is new")
		}
		if strings.HasPrefix(dsn, "postgres") && join(t, dsn).Stands("payer", later) == nil {
			t.Error("another replica does not know")
		}
	})
}
