package job

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Follower is the Service of what follows something that grows, as the log does:
// step after step it reads what is new and stores what comes of it, in one
// transaction with how far it is and Lease.Check, and waits when there is
// nothing. Where it is belongs to whoever makes the steps, so that a follower
// that starts, here or on another replica, goes on where the last one was.
//
// The fields must not be changed after Start.
type Follower struct {
	// Delay returns how long the first step has time. nil: none.
	Delay func(ctx context.Context) time.Duration
	// Step does some work and returns how much; 0 says that there is nothing to
	// do, or that it is another replica's turn. Required. Steps follow each other
	// in one goroutine; their context ends with Stop.
	Step func(ctx context.Context) (int, error)
	// Changed returns a channel that is closed when there is more to do. It is
	// asked before each step, so that nothing is missed. nil: nobody wakes it.
	Changed func() <-chan struct{}
	Gather  time.Duration // after it was woken it waits so long, for what comes with it
	Every   time.Duration // it looks so often though nobody wakes it. Required
	// Timeout bounds a step: a connection that died in silence must not hold it up. 0 bounds nothing.
	Timeout time.Duration
	// Rest returns how long to leave the database to others after a step that
	// did something, from how long that took. nil: not at all.
	Rest func(worked time.Duration) time.Duration
	// Failed is told why a step failed and waits, until ctx ends at the latest,
	// before the next. Required.
	Failed func(ctx context.Context, err error)
	// Ended is called in Stop when the last step is over and the lease still
	// held, to store what is not stored yet. nil: nothing is.
	Ended func(ctx context.Context) error
	Lease *Lease // given up in Stop, so that another goes on at once; nil: there is none

	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{}
}

// Start begins to follow.
func (f *Follower) Start(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cancel != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.done = cancel, make(chan struct{})
	go f.run(ctx, f.done)
	return nil
}

// Stop ends following and hands over. If the step that runs does not end in
// time it may be called again.
func (f *Follower) Stop(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cancel == nil {
		return nil
	}
	f.cancel()
	select {
	case <-f.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	f.cancel = nil
	var err error
	if f.Ended != nil {
		err = f.Ended(ctx)
	}
	if f.Lease != nil {
		err = errors.Join(err, f.Lease.Release(ctx))
	}
	return err
}

func (f *Follower) run(ctx context.Context, done chan struct{}) {
	defer close(done)
	if f.Delay != nil {
		Pause(ctx, f.Delay(ctx))
	}
	for ctx.Err() == nil {
		var changed <-chan struct{}
		if f.Changed != nil {
			changed = f.Changed()
		}
		began := time.Now()
		n, err := f.step(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			f.Failed(ctx, err)
		case n == 0:
			select {
			case <-ctx.Done():
			case <-changed:
				Pause(ctx, f.Gather)
			case <-time.After(f.Every):
			}
		case f.Rest != nil:
			Pause(ctx, f.Rest(time.Since(began)))
		}
	}
}

func (f *Follower) step(ctx context.Context) (int, error) {
	if f.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.Timeout)
		defer cancel()
	}
	return f.Step(ctx)
}

// Pause returns after d, or when ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
