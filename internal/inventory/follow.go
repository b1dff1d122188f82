package inventory

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// How the log is followed.
const (
	perLane   = 1000 // records read at a time
	lookEvery = 5 * time.Second
	restMost  = time.Second
	rests     = 9               // after a step it rests so many times as long as it worked
	catchUp   = 5 * time.Second // who asks waits no longer; then it is said how much is left
)

// Start begins to follow the log. Every replica may; one reads each part.
func (s *Service) Start(context.Context) error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.cancel != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan struct{})
	go s.run(ctx, s.done)
	return nil
}

// Stop ends following. It may be called without Start.
func (s *Service) Stop(context.Context) error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.cancel != nil {
		s.cancel()
		<-s.done
		s.cancel = nil
	}
	return nil
}

func (s *Service) run(ctx context.Context, done chan struct{}) {
	defer close(done)
	for ctx.Err() == nil {
		began := time.Now()
		n, err := s.step(ctx)
		wait := min(restMost, rests*time.Since(began))
		if err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("what is observed is not followed", "error", err)
		}
		if n == 0 {
			wait = lookEvery
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// step reads some of the log and writes what it shows, and returns how many
// records it read.
func (s *Service) step(ctx context.Context) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, turn, err := positions(ctx, s.o.DB)
	if err != nil {
		return 0, err
	}
	found := map[key]*seen{}
	n, err := s.o.Log.Next(ctx, at, perLane, false, func(r audit.Record) error {
		s.note(found, r.Event)
		at[r.Lane] = r.SN
		return nil
	})
	if err != nil || n == 0 {
		return 0, err
	}
	reg, err := s.registered(ctx)
	if err != nil {
		return 0, err
	}
	err = s.o.DB.Tx(ctx, func(tx *storage.Tx) error {
		return write(ctx, tx, turn, at, found, func(k key) bool { return reg.known(k) == "" }, s.o.Now())
	})
	if errors.Is(err, errMoved) {
		return n, nil // what another replica wrote is read next
	}
	return n, err
}

func (s *Service) note(found map[key]*seen, ev audit.Event) {
	add := func(k key, x sighting) {
		if found[k] == nil {
			found[k] = &seen{}
		}
		found[k].add(x, ev)
	}
	add(key{kindLog, ""}, sighting{times: 1})
	if s.o.Ignore != nil && s.o.Ignore(ev) {
		return
	}
	for _, x := range shown(ev) {
		if x.name != "" {
			add(key{x.kind, tame(x.name)}, x)
		}
	}
}

// caughtUp reads the log to its present end, and returns how many records are
// left to be read if that takes too long.
func (s *Service) caughtUp(ctx context.Context) (behind int64, err error) {
	end := time.Now().Add(catchUp)
	for {
		n, err := s.step(ctx)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			return 0, nil
		}
		if time.Now().After(end) {
			break
		}
	}
	at, _, err := positions(ctx, s.o.DB)
	if err != nil {
		return 0, err
	}
	head, err := s.o.Log.Head(ctx)
	for lane, sn := range head {
		behind += max(0, sn-at[lane])
	}
	return behind, err
}
