package approvals_test

import (
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
)

// How an identical call finds its request.
func TestHowAnIdenticalCallAttaches(t *testing.T) {
	each(t, func(w *world) {
		other := w.room(approvals.Options{})
		// Two that come first at the same instant make one request.
		h := w.held("together")
		var first approvals.Answer
		w.atLook(2, func() {
			var err error
			first, err = other.Hold(ctx, h)
			w.must(err)
		})
		if second := w.hold(h); !first.New || second.New || second.Request.ID != first.Request.ID {
			t.Errorf("%+v %+v", first, second)
		}
		// One that wants the server to make the call makes it so.
		plain := w.held("served later")
		id := w.hold(plain).Request.ID
		serving := plain
		serving.Server, serving.Wire = true, &approvals.Wire{Front: "mcp"}
		if a := w.hold(serving); a.Request.ID != id || !a.Request.Server {
			t.Errorf("the server is not asked: %+v", a.Request)
		}
		if a := w.hold(plain); a.Request.ID != id || !a.Request.Server {
			t.Errorf("the server is asked no more: %+v", a.Request)
		}
		// The call that the server makes is the one that was approved, or none.
		w.approve("fiona", id)
		for name, only := range map[string]string{"another": first.Request.ID, "none": "apr_x"} {
			forged := plain
			forged.Only = only
			if a, err := w.Hold(ctx, forged); !errors.Is(err, approvals.ErrVoid) || a.Permit != nil {
				t.Errorf("%s: %v %+v", name, err, a)
			}
		}
		mine := plain
		mine.Only = id
		if a := w.hold(mine); a.Permit == nil {
			t.Errorf("%+v", a)
		}
		changed := w.held("nobody asked about this")
		changed.Only = id
		if a, err := w.Hold(ctx, changed); !errors.Is(err, approvals.ErrVoid) || a.New {
			t.Errorf("%v %+v", err, a)
		}
	})
}

// One that comes when its time is over is told so, though nobody noticed yet.
func TestAnIdenticalCallFindsOutThatTimeIsOver(t *testing.T) {
	each(t, func(w *world) {
		h := w.held("late")
		id := w.hold(h).Request.ID
		w.pass(4 * time.Hour)
		if a := w.hold(h); a.Request.ID != id || a.Request.State != approvals.Expired {
			t.Errorf("%+v", a.Request)
		}
	})
}
