package connections_test

import (
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func (r *room) used(name string) time.Time {
	r.t.Helper()
	all, err := r.LastUses(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return all[name]
}

func TestTheLastUseIsStoredOnceAMinute(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := open(t, db)
		r.ledger(def("pay", "pays"))
		second := replica(t, db, r.log)
		if at := r.used("ledger"); !at.IsZero() {
			t.Errorf("used at %s before any use", at)
		}
		flush := func() {
			t.Helper()
			if err := r.FlushUses(ctx); err != nil {
				t.Fatal(err)
			}
		}
		first := *r.now
		r.Used("ledger", first)
		r.Used("nobody", first) // deleted meanwhile: costs nobody else theirs
		if at := r.used("ledger"); !at.Equal(first) {
			t.Errorf("at once: %s", at)
		}
		flush()
		if at := second.used("ledger"); !at.Equal(first) {
			t.Errorf("on another replica, or after a restart: %s", at)
		}
		*r.now = first.Add(59 * time.Second)
		r.Used("ledger", *r.now)
		r.Used("ledger", first) // an older one changes nothing
		flush()
		if at := second.used("ledger"); !at.Equal(first) {
			t.Errorf("written again within a minute: %s", at)
		}
		*r.now = first.Add(61 * time.Second)
		flush()
		if at := second.used("ledger"); !at.Equal(first.Add(59 * time.Second)) {
			t.Errorf("after a minute: %s", at)
		}
		second.Used("ledger", first.Add(time.Second)) // a replica whose clock is behind
		if err := second.FlushUses(ctx); err != nil {
			t.Fatal(err)
		}
		if at := replica(t, db, r.log).used("ledger"); !at.Equal(first.Add(59 * time.Second)) {
			t.Errorf("an earlier use replaced a later one: %s", at)
		}
		if err := r.Delete(ctx, pat, "over", "ledger"); err != nil {
			t.Fatal(err)
		}
		if at := replica(t, db, r.log).used("ledger"); !at.IsZero() {
			t.Errorf("a deleted connection was used at %s", at)
		}
	})
}

// What was used just before the end is there after it.
func TestTheLastUseIsStoredAtTheEnd(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := open(t, db)
		r.ledger(def("pay", "pays"))
		if err := r.Start(ctx); err != nil {
			t.Fatal(err)
		}
		r.Used("ledger", *r.now)
		if err := r.FlushUses(ctx); err != nil {
			t.Fatal(err)
		}
		last := r.now.Add(3 * time.Second)
		r.Used("ledger", last)
		for range 2 {
			if err := r.Stop(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if at := replica(t, db, r.log).used("ledger"); !at.Equal(last) {
			t.Errorf("%s, want %s", at, last)
		}
	})
}
