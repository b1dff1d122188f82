package seal_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// A clock that jumps back an hour, in the log and in the sealer, stops nothing
// and is no rollback: the tree is ordered by lanes, not by time.
func TestFaultClockJumpsBack(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		now := time.Now()
		clock := func() time.Time { return now }
		l, err := audit.Open(t.Context(), db, audit.Options{Redactor: inspection.New(), Keeper: audittest.Keeper("k"), Logger: logger(t), Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close(t.Context())
		o := options(t)
		o.Now, o.HeadFile = clock, filepath.Join(t.TempDir(), "checkpoint")
		s := open(t, db, l, o)
		before := record(t, l, 300)
		drain(t, s)
		f, err := s.Prove(t.Context(), before[7])
		if err != nil {
			t.Fatal(err)
		}
		size := sizeOf(t, s)
		now = now.Add(-time.Hour)
		after := record(t, l, 300)
		drain(t, s)
		if n, err := s.Thin(t.Context()); n != 0 || err != nil {
			t.Errorf("%d checkpoints were thinned out, %v", n, err)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		s = open(t, db, l, o) // a restart with the clock still behind
		if err := s.Standing(); err != nil {
			t.Errorf("taken for a rollback: %v", err)
		}
		record(t, l, 1)
		drain(t, s)
		if mustVerify(t, s); sizeOf(t, s) < size+300 {
			t.Error("nothing was sealed after the jump")
		}
		key, _ := trust(t, s)
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tlog.VerifyProof(b, key); err != nil {
			t.Errorf("a proof from before: %v", err)
		}
		if _, err := s.Prove(t.Context(), after[7]); err != nil {
			t.Errorf("a proof from after: %v", err)
		}
	})
}
