package job_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// When the database's clock jumps back an hour, the lease of a dead holder
// looks good for an hour. It must be taken at once; a holder that lives is
// fenced like any other.
func TestALeaseFromBeforeTheClockJumpedBack(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		dead, next := job.NewLease(db, "x", 3*time.Second), job.NewLease(db, "x", 3*time.Second)
		if ok, err := dead.Acquire(ctx); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if ok, err := next.Acquire(ctx); ok || err != nil {
			t.Fatal("two hold it", err)
		}
		if err := db.Tx(ctx, func(tx *storage.Tx) error {
			return tx.ExecOne(ctx, `UPDATE leases SET until = until + $1 WHERE name = 'x'`, time.Hour.Microseconds())
		}); err != nil {
			t.Fatal(err)
		}
		if ok, err := next.Acquire(ctx); !ok || err != nil {
			t.Errorf("nobody can take it for an hour: %v, %v", ok, err)
		}
		if err := dead.Renew(ctx); !errors.Is(err, job.ErrFenced) {
			t.Errorf("the one before is not fenced: %v", err)
		}
		if ok, err := dead.Acquire(ctx); ok || err != nil {
			t.Errorf("two hold it: %v", err)
		}
	})
}
