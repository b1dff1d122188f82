package approvals

import (
	"context"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/storage"
)

var identityStale = fault.New(fault.Unavailable, "identity_stale", "identities cannot be checked at the moment, so nothing is decided and no approval is used; try again")

func micros(t time.Time) int64 { return storage.Micros(t) }

// hub wakes who waits for a request. Waiting costs an entry in a map, and
// only while someone is connected and waits.
type hub struct {
	mu      sync.Mutex
	waiting map[string]*waiters
	all     chan struct{} // closed at any change
}

type waiters struct {
	n  int
	ch chan struct{}
}

func newHub() *hub { return &hub{waiting: map[string]*waiters{}, all: make(chan struct{})} }

// wait returns a channel that is closed at the request's next change, and what
// to call when nobody listens to it any more.
func (h *hub) wait(id string) (<-chan struct{}, func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.waiting[id]
	if w == nil {
		w = &waiters{ch: make(chan struct{})}
		h.waiting[id] = w
	}
	w.n++
	return w.ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if w.n--; w.n == 0 && h.waiting[id] == w {
			delete(h.waiting, id)
		}
	}
}

// any returns a channel that is closed at the next change of any request.
func (h *hub) any() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all
}

func (h *hub) wake(ids ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		if w := h.waiting[id]; w != nil {
			close(w.ch)
			delete(h.waiting, id)
		}
	}
	close(h.all)
	h.all = make(chan struct{})
}

// changed runs when any replica changed a request: it wakes who waits for one
// of those changed lately, and has the executor look.
func (s *Service) changed(ctx context.Context) error {
	recent := storage.Micros(s.o.Now().Add(-30 * time.Second))
	rows, err := s.db.Query(ctx, `SELECT id FROM approvals WHERE updated >= $1`, recent)
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	s.hub.wake(ids...)
	s.look()
	return rows.Err()
}

// look has the executor look for approved requests.
func (s *Service) look() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Wait returns when the request is in none of the given states any more, at
// the latest after most or when ctx ends, with the request as it is then.
func (s *Service) Wait(ctx context.Context, id string, most time.Duration, while ...State) (Request, error) {
	end := time.NewTimer(most)
	defer end.Stop()
	for {
		changed, leave := s.hub.wait(id)
		r, err := s.Get(ctx, id)
		if err != nil || !contains(while, r.State) {
			leave()
			return r, err
		}
		select {
		case <-changed:
			leave()
			continue
		case <-end.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
		leave()
		return r, err
	}
}

func contains(list []State, s State) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
