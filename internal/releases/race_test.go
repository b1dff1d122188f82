package releases_test

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// whole fails unless the agent's grants are those of the release in force.
func (r *replica) whole(active ...int64) {
	r.t.Helper()
	st, err := r.State(ctx, "payer")
	r.must(err)
	if !slices.Contains(active, st.Active) {
		r.t.Fatalf("in force is %d, want one of %v", st.Active, active)
	}
	one, err := r.Get(ctx, "payer", st.Active)
	r.must(err)
	grants, err := r.policy.Grants(ctx, "payer")
	r.must(err)
	if len(grants) != len(one.Grants) {
		r.t.Errorf("release %d is in force with %d grants, want %d: it is half of one", st.Active, len(grants), len(one.Grants))
	}
	a, _ := r.ids.Agent("payer")
	if a.Stage != st.Stage {
		r.t.Errorf("the agent is in %s, its release in %s", a.Stage, st.Stage)
	}
}

// Promotions, rollbacks, a canary that gives up and a lock, all at the same time:
// what is in force is one release as a whole, and the lock stops the agent.
func TestRacesLeaveOneReleaseWhole(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		r := join(t, dsn)
		r.business()
		r.release(spec(), releases.Ask{})
		r.grant("payments", "ledger", "pay")
		r.must(second(r.Create(ctx, olga, why, "payer", spec())))
		for range 3 {
			r.must(second(r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 1, Stage: identity.Development})))
			r.must(second(r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 2, Percent: 50, Signals: &releases.Signals{Refusals: 1, Least: 1}})))
			judge := r.NewJudge()
			r.must(judge.Look(ctx))
			r.called(runs(true, 1)[0], audit.CallDenied)
			var all sync.WaitGroup
			for _, act := range []func() error{
				func() error { return judge.Look(ctx) },
				func() error { return second(r.Rollback(ctx, oskar, why, releases.Back{Agent: "payer", Gives: true})) },
				func() error {
					return second(r.Rollback(ctx, oskar, why, releases.Back{Agent: "payer", To: 1, Gives: true}))
				},
				func() error {
					return second(r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 2, Stage: identity.Development}))
				},
			} {
				all.Go(func() {
					if err := act(); err != nil && !errors.Is(err, releases.ErrRaced) && !errors.Is(err, policy.ErrChanged) && !errors.Is(err, releases.ErrNothing) {
						t.Error(err)
					}
				})
			}
			all.Wait()
			r.must(r.watch.Poll(ctx))
			r.whole(1, 2)
		}

		r.must(second(r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 1, Stage: identity.Development})))
		q, err := r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Number: 2, Stage: identity.Production, Accepted: r.missing(identity.Production)})
		r.must(err)
		var all sync.WaitGroup
		all.Go(func() {
			if err := second(r.Approve(ctx, oskar, why, q.ID)); err != nil && !errors.Is(err, releases.ErrLocked) {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := second(r.locks.Add(ctx, oskar, locks.Lock{Kind: locks.Agent, Name: "payer", Reason: why}, 0)); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		r.must(r.watch.Poll(ctx))
		r.whole(1, 2)
		if err := r.locks.Check(locks.Subject{Agents: []string{"payer"}}); !errors.Is(err, locks.ErrLocked) {
			t.Errorf("a promotion lifted a lock: %v", err)
		}
	})
}
