package job_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestOneHolderAtATime(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		const n = 8
		leases := make([]*job.Lease, n)
		got := make([]bool, n)
		var wg sync.WaitGroup
		for i := range n {
			leases[i] = job.NewLease(db, "x", time.Minute)
			wg.Go(func() {
				var err error
				if got[i], err = leases[i].Acquire(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		first := slices.Index(got, true)
		if first < 0 || slices.Index(got[first+1:], true) >= 0 {
			t.Fatalf("held by %v", got)
		}
		if ok, err := leases[first].Acquire(ctx); !ok || err != nil || leases[first].Epoch() != 1 {
			t.Errorf("%v, %v, epoch %d", ok, err, leases[first].Epoch())
		}
		if err := leases[first].Release(ctx); err != nil {
			t.Fatal(err)
		}
		other := leases[(first+1)%n]
		if ok, err := other.Acquire(ctx); !ok || err != nil || other.Epoch() != 2 {
			t.Errorf("%v, %v, epoch %d", ok, err, other.Epoch())
		}
	})
}

func TestAnExpiredHolderIsFenced(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		a, b := job.NewLease(db, "x", time.Minute), job.NewLease(db, "x", time.Minute)
		if err := a.Renew(ctx); !errors.Is(err, job.ErrFenced) {
			t.Errorf("never held: %v", err)
		}
		if ok, err := a.Acquire(ctx); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := db.Tx(ctx, func(tx *storage.Tx) error {
			return tx.ExecOne(ctx, `UPDATE leases SET until = 1 WHERE name = 'x'`)
		}); err != nil {
			t.Fatal(err)
		}
		if err := a.Renew(ctx); err != nil {
			t.Errorf("expired, but nobody took it: %v", err)
		}
		if err := db.Tx(ctx, func(tx *storage.Tx) error {
			return tx.ExecOne(ctx, `UPDATE leases SET until = 1 WHERE name = 'x'`)
		}); err != nil {
			t.Fatal(err)
		}
		if ok, err := b.Acquire(ctx); !ok || err != nil {
			t.Fatal(ok, err)
		}
		err := db.Tx(ctx, func(tx *storage.Tx) error {
			if err := storage.Bump(ctx, tx, "work"); err != nil {
				return err
			}
			return a.Check(ctx, tx)
		})
		if !errors.Is(err, job.ErrFenced) {
			t.Errorf("a fenced holder committed: %v", err)
		}
		if ok, err := a.Acquire(ctx); ok || err != nil || a.Epoch() != 0 {
			t.Errorf("%v, %v, %d", ok, err, a.Epoch())
		}
	})
}

type service struct {
	name string
	fail error
	log  *[]string
}

func (s service) Start(context.Context) error { *s.log = append(*s.log, "+"+s.name); return s.fail }
func (s service) Stop(context.Context) error  { *s.log = append(*s.log, "-"+s.name); return s.fail }

func TestGroupStopsInReverse(t *testing.T) {
	ctx := context.Background()
	var g job.Group
	var log []string
	boom := errors.New("boom")
	for _, s := range []service{{"a", nil, &log}, {"b", nil, &log}} {
		if err := g.Start(ctx, s.name, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Start(ctx, "c", service{"c", boom, &log}); !errors.Is(err, boom) {
		t.Error(err)
	}
	if err := errors.Join(g.Stop(ctx), g.Stop(ctx)); err != nil {
		t.Error(err)
	}
	if want := []string{"+a", "+b", "+c", "-b", "-a"}; !slices.Equal(log, want) {
		t.Errorf("got %v", log)
	}
}
