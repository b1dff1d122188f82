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

// feed grows, and is followed to a place that is kept in memory.
type feed struct {
	mu      sync.Mutex
	changed chan struct{}
	size    int
	at      int
	steps   chan int // every place that was reached
	fail    error    // of the next step
	failed  chan error
}

func newFeed() *feed {
	return &feed{changed: make(chan struct{}), steps: make(chan int, 100), failed: make(chan error, 100)}
}

func (f *feed) grow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed) wake() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *feed) step(context.Context) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail; err != nil {
		f.fail = nil
		return 0, err
	}
	n := f.size - f.at
	if n > 0 {
		f.at = f.size
		f.steps <- f.at
	}
	return n, nil
}

func (f *feed) follower() *job.Follower {
	return &job.Follower{Step: f.step, Changed: f.wake, Every: time.Hour, Failed: func(_ context.Context, err error) { f.failed <- err }}
}

func within[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatal("nothing comes")
		panic("unreachable")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// It goes on when it is woken, after a failure, and where it was after a stop;
// Start and Stop may be called twice, and Stop before Start.
func TestAFollowerGoesOnWhereItWas(t *testing.T) {
	ctx, f := t.Context(), newFeed()
	r := f.follower()
	must(t, errors.Join(r.Stop(ctx), r.Start(ctx), r.Start(ctx)))
	for i := 1; i <= 3; i++ {
		f.grow()
		if at := within(t, f.steps); at != i {
			t.Fatalf("at %d, not %d", at, i)
		}
	}
	boom := errors.New("boom")
	f.mu.Lock()
	f.fail = boom
	f.mu.Unlock()
	f.grow()
	if err := within(t, f.failed); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if at := within(t, f.steps); at != 4 {
		t.Fatalf("at %d after a failure", at)
	}
	must(t, errors.Join(r.Stop(ctx), r.Stop(ctx)))
	f.grow()
	select {
	case at := <-f.steps:
		t.Fatalf("stopped, it went on to %d", at)
	default:
	}
	must(t, r.Start(ctx))
	if at := within(t, f.steps); at != 5 {
		t.Fatalf("at %d after another start", at)
	}
	must(t, r.Stop(ctx))
}

// A step that does not end is no reason to hang: Stop returns when its time is
// over, stores nothing beside the step, and hands over when called again.
func TestStopWaitsForTheStepAndThenHandsOver(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		lease, other := job.NewLease(db, "x", time.Hour), job.NewLease(db, "x", time.Hour)
		begun, let := make(chan struct{}), make(chan struct{})
		var log []string
		r := &job.Follower{Every: time.Hour, Lease: lease, Failed: func(context.Context, error) { t.Error("failed") },
			Step: func(ctx context.Context) (int, error) {
				if ok, err := lease.Acquire(ctx); !ok || err != nil {
					t.Error(ok, err)
				}
				close(begun)
				<-let
				log = append(log, "step")
				return 1, nil
			},
			Ended: func(ctx context.Context) error {
				if err := lease.Renew(ctx); err != nil {
					t.Errorf("the lease was given up first: %v", err)
				}
				log = append(log, "ended")
				return nil
			}}
		must(t, r.Start(ctx))
		within(t, begun)
		over, cancel := context.WithCancel(ctx)
		cancel()
		if err := r.Stop(over); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if ok, err := other.Acquire(ctx); ok || err != nil {
			t.Fatal("it was handed over in the middle of a step", err)
		}
		close(let)
		must(t, r.Stop(ctx))
		if want := []string{"step", "ended"}; !slices.Equal(log, want) {
			t.Errorf("%v", log)
		}
		if ok, err := other.Acquire(ctx); !ok || err != nil {
			t.Errorf("it was not handed over: %v", err)
		}
	})
}

// Delay comes before the first step, Rest after each that did something, and a
// step has an end.
func TestAFollowerTakesItsTime(t *testing.T) {
	ctx := t.Context()
	var log []string
	enough := make(chan struct{})
	r := &job.Follower{Every: time.Hour, Timeout: time.Hour, Failed: func(context.Context, error) { t.Error("failed") },
		Delay: func(context.Context) time.Duration { log = append(log, "delay"); return time.Microsecond },
		Rest:  func(time.Duration) time.Duration { log = append(log, "rest"); return time.Microsecond },
		Step: func(ctx context.Context) (int, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the step has no end")
			}
			if log = append(log, "step"); len(log) < 5 {
				return 1, nil
			}
			close(enough)
			return 0, nil
		}}
	must(t, errors.Join(r.Start(ctx), r.Start(ctx)))
	within(t, enough)
	must(t, r.Stop(ctx))
	if want := []string{"delay", "step", "rest", "step", "rest", "step"}; !slices.Equal(log, want) {
		t.Errorf("%v", log)
	}
}

// Where there is one process nobody else can hold the lease.
func TestALeaseAmongReplicas(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		a, b := job.ReplicaLease(db, "x", time.Hour), job.ReplicaLease(db, "x", time.Hour)
		both := db.Dialect() == storage.SQLite
		if ok, err := a.Acquire(ctx); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if ok, err := b.Acquire(ctx); ok != both || err != nil {
			t.Fatal(ok, err)
		}
		err := db.Tx(ctx, func(tx *storage.Tx) error { return b.Check(ctx, tx) })
		if (err == nil) != both || !both && !errors.Is(err, job.ErrFenced) {
			t.Errorf("who does not hold it writes: %v", err)
		}
		must(t, errors.Join(a.Release(ctx), b.Release(ctx)))
		if a.Epoch() != 0 {
			t.Errorf("epoch %d", a.Epoch())
		}
	})
}
