package audit_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Events go to the first committer, so that its batches are large, until it is
// crowded, slow or down.
func TestWhichCommitter(t *testing.T) {
	const full, hour = audit.CrowdedAt, time.Hour
	for name, c := range map[string]struct {
		waiting []int
		at      []time.Duration
		down    []bool
		want    int64
	}{
		"nobody waits":              {[]int{0, 0, 0}, []time.Duration{0, 0, 0}, []bool{false, false, false}, 1},
		"some wait":                 {[]int{full - 1, 0, 0}, []time.Duration{0, 0, 0}, []bool{false, false, false}, 1},
		"a crowd":                   {[]int{full, 0, 0}, []time.Duration{0, 0, 0}, []bool{false, false, false}, 2},
		"two crowds":                {[]int{full, full + 9, 0}, []time.Duration{0, 0, 0}, []bool{false, false, false}, 3},
		"crowds everywhere":         {[]int{full + 3, full + 1, full + 2}, []time.Duration{0, 0, 0}, []bool{false, false, false}, 2},
		"the first is slow":         {[]int{0, 0, 0}, []time.Duration{hour, 0, 0}, []bool{false, false, false}, 2},
		"the first is at it":        {[]int{3, 0, 0}, []time.Duration{-hour, 0, 0}, []bool{false, false, false}, 1},
		"the first is down":         {[]int{0, 0, 0}, []time.Duration{0, 0, 0}, []bool{true, false, false}, 2},
		"all that works is crowded": {[]int{0, full + 1, full}, []time.Duration{0, 0, 0}, []bool{true, false, false}, 3},
		"nothing works":             {[]int{0, 0, 0}, []time.Duration{0, 0, 0}, []bool{true, true, true}, 0},
	} {
		if got := audit.Parked(c.waiting, c.at, c.down).Pick(); got != c.want {
			t.Errorf("%s: the event goes to %d, want %d", name, got, c.want)
		}
	}
}

// A lane that cannot commit, because its row is locked, does not stop the log:
// what it was given waits for it, and everything else goes to others.
func TestAStuckLaneIsPassedBy(t *testing.T) {
	ctx := context.Background()
	db := storagetest.Open(t, storagetest.Postgres(t))
	l := open(t, db, options(t))
	first := l.Pick()
	locked, release, stuck := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		stuck <- db.Tx(ctx, func(tx *storage.Tx) error {
			if _, err := tx.Exec(ctx, `SELECT 1 FROM lanes WHERE lane = $1 FOR UPDATE`, first); err != nil {
				return err
			}
			close(locked)
			<-release
			return nil
		})
	}()
	<-locked
	const writers = 4 * audit.CrowdedAt
	var wg sync.WaitGroup
	lanes := make(chan int64, writers)
	for range writers {
		wg.Go(func() {
			ref, err := l.Append(ctx, audit.Event{Type: audit.CallDenied})
			if err != nil {
				t.Error(err)
			}
			lanes <- ref.Lane
		})
	}
	for range writers / 4 {
		if lane := <-lanes; lane == first {
			t.Error("a lane whose row is locked commits")
		}
	}
	close(release)
	if err := <-stuck; err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	mustVerify(t, l)
}
