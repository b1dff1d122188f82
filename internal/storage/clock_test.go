package storage_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// A wall clock that jumps back an hour must not make an old view look new for
// an hour: a replica that cannot see revocations refuses.
func TestAClockThatJumpsBackMakesNoViewFresh(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := storage.NewWatcher(db, slog.New(slog.DiscardHandler))
		if w.Fresh() {
			t.Error("fresh before the first look")
		}
		now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) // without a monotonic reading: the worst case
		w.SetClock(func() time.Time { return now })
		look := func() {
			t.Helper()
			if err := w.Poll(context.Background()); err != nil || !w.Fresh() {
				t.Fatalf("fresh %v, %v", w.Fresh(), err)
			}
		}
		look()
		now = now.Add(-time.Hour)
		if w.Fresh() {
			t.Error("a view from the future is taken for fresh")
		}
		look() // it recovers with the next look
		now = now.Add(storage.StaleAfter)
		if w.Fresh() {
			t.Error("an old view is taken for fresh")
		}
	})
}
