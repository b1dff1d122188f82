package secrets

import (
	"context"
	"fmt"
	"time"
)

// Wake makes the worker look now.
func (r *Rekeyer) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Start implements job.Service.
func (r *Rekeyer) Start(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	go r.loop(ctx)
	return nil
}

const rekeyEvery = time.Second

func (r *Rekeyer) loop(ctx context.Context) {
	defer close(r.done)
	tick := time.NewTicker(rekeyEvery)
	defer tick.Stop()
	for {
		more, err := r.Look(ctx)
		if err != nil && ctx.Err() == nil {
			r.s.logger.WarnContext(ctx, "a rekey does not go on; it is tried again", "error", err)
		}
		if more && err == nil && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-tick.C:
		}
	}
}

// Stop implements job.Service.
func (r *Rekeyer) Stop(ctx context.Context) error {
	if r.cancel != nil {
		r.cancel()
		select {
		case <-r.done:
		case <-ctx.Done():
			return fmt.Errorf("rekey: work does not end: %w", ctx.Err())
		}
		r.cancel = nil
	}
	return r.lease.Release(ctx)
}
