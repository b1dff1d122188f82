package rates_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/rates"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Replicas whose own clocks are anything count together, exactly: of many at once as
// many pass as the rate allows, and what is refused uses up nothing.
func TestReplicasCountTogether(t *testing.T) {
	ctx := context.Background()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		a, b := rates.New(db, nil, nil), rates.New(db, nil, nil)
		hourly := rates.Use{Key: "throttled bot", Rate: rates.Rate{Calls: 10, Per: 24 * time.Hour}}
		var passed atomic.Int32
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				retry, err := []*rates.Service{a, b}[i%2].Take(ctx, false, hourly)
				switch {
				case err != nil:
					t.Error(err)
				case retry == 0:
					passed.Add(1)
				case retry > 24*time.Hour/10:
					t.Errorf("to wait %v for a share of a tenth of a day", retry)
				}
			})
		}
		all.Wait()
		if passed.Load() != 10 {
			t.Errorf("%d of 40 passed, 10 are allowed", passed.Load())
		}
		other := rates.Use{Key: "throttled other", Rate: rates.Rate{Calls: 1, Per: 24 * time.Hour}}
		if retry, err := a.Take(ctx, false, other, hourly); err != nil || retry == 0 {
			t.Errorf("what one rate refuses passed: %v %v", retry, err)
		}
		if retry, err := b.Take(ctx, false, other); err != nil || retry != 0 {
			t.Errorf("what was refused was counted: %v %v", retry, err)
		}
		db.Close()
		if _, err := a.Take(ctx, false, hourly); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("counted without a database: %v", err)
		}
	})
}
