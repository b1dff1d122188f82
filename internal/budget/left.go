package budget

import (
	"context"

	"github.com/countersign/countersign/internal/storage"
)

// Left is what is left to a call before anything is reserved for it.
type Left struct {
	Percent int64 // of the hard limit of which the least is neither used nor reserved, 0 to 100
	Limited bool  // a hard limit bounds the call
	Soft    bool  // a soft limit has been reached
}

// Left returns what is left of every budget that the call is for, as it is in the
// database now: concurrent calls may take it. Nothing is written. It fails if that
// cannot be seen.
func (s *Service) Left(ctx context.Context, c *Call) (Left, error) {
	out := Left{Percent: 100}
	if !s.watch.Fresh() { // before the view is taken, so that it is as new as Fresh says
		return out, ErrUnavailable
	}
	prices := s.Prices()
	var about []*Budget
	for _, b := range s.view.Load().of(c) {
		if b.most(c, prices) > 0 {
			about = append(about, b)
		}
	}
	if len(about) == 0 {
		return out, nil
	}
	now, err := s.clock(ctx, s.db)
	if err != nil {
		return out, ErrUnavailable.With(err)
	}
	for _, b := range about {
		start, _ := b.window(now)
		spent, reserved, err := readWindow(ctx, s.db, key{b.ID, b.part(c), storage.Micros(start)})
		if err != nil {
			return out, ErrUnavailable.With(err)
		}
		out.of(b, spent, reserved)
	}
	return out, nil
}

// of takes one budget into account.
func (l *Left) of(b *Budget, spent, reserved int64) {
	l.Soft = l.Soft || b.Soft > 0 && spent >= b.Soft
	if b.Hard <= 0 {
		return
	}
	l.Limited = true
	left := max(b.Hard-min(spent, b.Hard)-min(reserved, b.Hard), 0)
	l.Percent = min(l.Percent, left*100/b.Hard) // rounded down; MostLimit keeps it from overflowing
}
