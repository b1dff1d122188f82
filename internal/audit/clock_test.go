package audit_test

import (
	"context"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// A clock that jumps back an hour changes the times in events and nothing else:
// order, chain and outcomes do not hang on it.
func TestFaultClockJumpsBack(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		now := time.Now()
		o := options(t)
		o.Lanes, o.Now = 1, func() time.Time { return now }
		l := open(t, db, o)
		r, err := l.Intent(ctx, callEvent("call-1"))
		if err != nil {
			t.Fatal(err)
		}
		head, err := l.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(-time.Hour)
		l.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}})
		if _, err := l.Intent(ctx, callEvent("call-2")); err != nil {
			t.Fatal(err)
		}
		var after []string
		if _, err := l.Next(ctx, head, 100, false, func(rec audit.Record) error {
			if rec.Lane > 0 {
				after = append(after, rec.Event.Call)
			}
			return nil
		}); err != nil || len(after) != 2 {
			t.Errorf("a follower sees %v after the jump, %v", after, err)
		}
		mustVerify(t, l)
	})
}

// A lane whose holder died just before the database's clock jumped back looks
// held for an hour. Its calls still get their outcomes at once.
func TestFaultClockOfLanesJumpsBack(t *testing.T) {
	db := storagetest.Open(t, storagetest.Postgres(t))
	o := options(t)
	o.Lanes = 1
	l := open(t, db, o)
	if _, err := l.Intent(context.Background(), callEvent("call-1")); err != nil {
		t.Fatal(err)
	}
	execute(t, db, `UPDATE lanes SET holder = 'dead', until = until + $1 WHERE lane > 0`, time.Hour.Microseconds())
	next := open(t, db, o)
	if got := types(t, next, "call-1"); got != "call.intent call.outcome:unknown" {
		t.Errorf("got %s", got)
	}
	mustVerify(t, next)
}
