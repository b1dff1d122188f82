package approvals

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Kept returns how many requests somebody waits for in this process.
func (s *Service) Kept() (n int) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for _, w := range s.hub.waiting {
		n += w.n
	}
	return n
}

// May is whether a request may go from one state to another.
func May(from, to State) bool { return from.may(to) }

// Force moves a request, as it is stored, to a state, by the one way there is.
func (s *Service) Force(ctx context.Context, id string, next State) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		r, err := get(ctx, tx, id)
		if err != nil {
			return err
		}
		tx.Record(r.event("approval.forced", audit.System, "", nil))
		return advance(ctx, tx, &r, next, s.o.Now())
	})
}

// NextSend is how long the executor may sleep.
func (s *Service) NextSend() time.Duration { return s.nextSend(context.Background()) }
