package approvals_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/test/routines"
)

const room = "internal/approvals"

// A request that waits is a row: nothing of the process waits with it. Who is
// kept while people decide leaves nothing behind, decided or gone; and the room
// stops with all it began.
func TestNoGoroutineStaysBehind(t *testing.T) {
	each(t, func(w *world) {
		routines.Left(t, room, 0)
		var all []string
		for i := range 40 {
			all = append(all, w.hold(w.held(fmt.Sprint("parked ", i))).Request.ID)
		}
		routines.Left(t, room, 0)

		// Clients that are kept: half of them leave, half are told.
		bg, leave := context.WithCancel(ctx)
		told := make(chan approvals.State, len(all))
		for i, id := range all {
			with := ctx
			if i%2 == 0 {
				with = bg
			}
			go func() {
				r, err := w.Wait(with, id, time.Hour, approvals.Pending)
				if err != nil { // it left, perhaps in the middle of a look
					r.State = approvals.Pending
				}
				told <- r.State
			}()
		}
		wait(t, func() bool { return w.Kept() == len(all) })
		leave()
		for i, id := range all {
			if i%2 == 1 {
				w.approve("fiona", id)
			}
		}
		n := map[approvals.State]int{}
		for range all {
			n[<-told]++
		}
		if n[approvals.Approved] != len(all)/2 || n[approvals.Pending] != len(all)/2 || w.Kept() != 0 {
			t.Errorf("%v, and %d are kept still", n, w.Kept())
		}
		routines.Left(t, room, 0)
		w.serves(t)
	})
}

// serves has the server make a call whose upstream hangs: it ends with the room.
func (w *world) serves(t *testing.T) {
	t.Helper()
	s := w.room(approvals.Options{})
	h := w.held("served")
	h.Wire, h.Server = &approvals.Wire{Front: "mcp"}, true
	a, err := s.Hold(ctx, h)
	w.must(err)
	w.approve("fiona", a.Request.ID)
	began := make(chan struct{})
	w.must(s.Start(ctx, func(ctx context.Context, _ approvals.Request, _ approvals.Wire) error {
		close(began)
		<-ctx.Done()
		return ctx.Err()
	}))
	<-began
	wait(t, func() bool { return len(routines.In(room)) >= 3 }) // the clock, the executor and the call
	w.must(s.Stop(ctx))
	routines.Left(t, room, 0)
	w.must(s.Stop(ctx))
	if got := w.state(a.Request.ID); got != approvals.Approved {
		t.Errorf("stopping the room made the request %s", got)
	}
}
