package approvals_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
)

func TestThePriceOfGovernance(t *testing.T) {
	each(t, func(w *world) {
		s := w.room(approvals.Options{MaxPending: 1000})
		decide := func(i int, policy, who string, v approvals.Verdict, after time.Duration) {
			a, err := s.Hold(ctx, w.held(fmt.Sprintf(`{"cents":%d,"to":"Nordwind","ref":"r%d"}`, 100*(i+1), i), need(policy, 1, "finance")))
			w.must(err)
			w.pass(after)
			_, err = s.Decide(ctx, w.by(who), a.Request.ID, v, "fine")
			w.must(err)
		}
		for i := range 50 {
			decide(i, "too-wide", "fiona", approvals.Approve, time.Minute)
		}
		for i := range 8 {
			decide(1000+i, "needed", "carl", approvals.Approve, time.Second)
		}
		decide(2000, "needed", "carl", approvals.Deny, 10*time.Minute)
		_, err := s.Hold(ctx, w.held(`{"cents":1}`, need("needed", 1, "finance")))
		w.must(err)
		w.pass(5 * time.Hour)
		w.must(s.Tick(ctx))

		got, err := s.Stats(ctx, w.clock().Add(-24*time.Hour))
		w.must(err)
		if len(got.Policies) != 2 || len(got.People) != 2 {
			t.Fatalf("%+v", got)
		}
		needed, wide := got.Policies[0], got.Policies[1]
		if needed.Held != 10 || needed.Approved != 8 || needed.Denied != 1 || needed.Lapsed != 1 || needed.Median != 1 || needed.P95 != 600 || needed.Narrow != nil || int(needed.Agents) != 8+600+5*3600 {
			t.Errorf("%+v", needed)
		}
		if wide.Held != 50 || wide.Share != 1 || wide.Median != 60 || wide.Narrow == nil {
			t.Fatalf("%+v", wide)
		}
		r := wide.Narrow.Ranges
		if len(r) != 3 || r[0].Name != "cents" || r[0].Min != "100" || r[0].Max != "5000" || r[1].Name != "ref" || r[1].Many != 50 || r[1].Values != nil || r[2].Values[0] != "Nordwind" {
			t.Errorf("%+v", r)
		}
		if p := got.People[0]; p.Name != "carl" || p.Quick != 8 || !p.Bulk || p.Decided != 9 || p.Yes != 8 {
			t.Errorf("%+v", p)
		}
		if p := got.People[1]; p.Name != "fiona" || p.Bulk || p.Median != 60 {
			t.Errorf("%+v", p)
		}
		// One no among the last fifty, and nothing is suggested.
		decide(3000, "too-wide", "fiona", approvals.Deny, time.Minute)
		if got, err = s.Stats(ctx, w.clock().Add(-24*time.Hour)); err != nil || got.Policies[1].Narrow != nil {
			t.Errorf("%+v %v", got.Policies[1].Narrow, err)
		}
	})
}
