package approvals

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// sendWithin is how long after its time a prepared call may still be sent: what
// nobody could send by then is not wanted any more.
const sendWithin = 15 * time.Minute

// prepare makes the request of a call that policy allows and whose tool lets it be
// cancelled for a while: nobody has to approve it, and the server sends it when its
// time has come. It is durable before anyone is told.
func (s *Service) prepare(ctx context.Context, h Held, digest string) (Answer, error) {
	if h.Window <= 0 || !h.Allowed {
		return Answer{}, ErrNeed
	}
	if h.Wire == nil {
		return Answer{}, ErrImpossible.Say("calls of this tool wait before they are sent, and this one cannot be kept so that it can be sent later")
	}
	now := s.o.Now().UTC().Truncate(time.Microsecond)
	r := Request{
		ID: id.At(id.Approval, now), Digest: digest, same: h.Binding.same(), State: Approved, Binding: h.Binding, Call: h.Call, Run: h.Run, Event: id.At(id.Event, now), Effect: h.Effect,
		Needs: []Need{}, Window: h.Window, Excluded: []Person{}, Labels: h.Labels, Reason: h.Reason, Origin: h.Origin, Created: now, open: true, revision: 1, Server: true,
		Why: "it is allowed, and is sent unless somebody cancels it",
	}
	r.allow(now, sendWithin)
	r.DecideBy = r.SendAt
	waiting, err := count(ctx, s.db, `agent = $1 AND state = $2 AND send_at > $3`, r.Binding.Agent, string(Approved), storage.Micros(now))
	if err != nil {
		return Answer{}, err
	}
	if waiting >= int64(s.o.MaxPending) {
		return Answer{}, ErrTooMany
	}
	if r.wire, err = s.seal(r.ID, "wire", h.Wire); err != nil {
		return Answer{}, err
	}
	err = s.change(ctx, r.ID, func(tx *audit.Tx) error {
		if err := insert(ctx, tx, &r); err != nil {
			return err
		}
		ev := r.event("approval.prepared", audit.Actor{Kind: audit.KindAgent, ID: r.Binding.AgentID, Name: r.Binding.Agent}, "",
			map[string]any{"send_at": r.SendAt, "binding": r.Binding})
		ev.ID, ev.Time, ev.Digest = r.Event, now, digest
		tx.Record(ev, audit.Payload{Name: "arguments", Body: h.Args, Size: int64(len(h.Args))})
		return storage.Bump(ctx, tx.Tx, version)
	})
	if storage.Duplicate(err) {
		return Answer{}, errAgain // an identical call was faster
	}
	return Answer{Request: r, New: true}, err
}

// nextSend returns how long the executor may sleep: until the next prepared call has
// to be sent, and a few seconds at most.
func (s *Service) nextSend(ctx context.Context) time.Duration {
	const most, least = 5 * time.Second, 10 * time.Millisecond
	var at int64
	now := s.o.Now()
	err := s.db.QueryRow(ctx, `SELECT COALESCE(MIN(send_at), 0) FROM approvals WHERE state = 'approved' AND server AND send_at > $1`, storage.Micros(now)).Scan(&at)
	if err != nil || at == 0 {
		return most
	}
	return min(most, max(least, storage.Time(at).Sub(now)))
}

// Windowed returns the requests of calls with a window, the latest first: of a call
// in whatever state, of a run those that wait to be sent.
func (s *Service) Windowed(ctx context.Context, call, run string) ([]Request, error) {
	if run != "" {
		return read(ctx, s.db, ` WHERE run = $1 AND undo_window > 0 AND state = 'approved' ORDER BY id DESC LIMIT 1000`, run)
	}
	return read(ctx, s.db, ` WHERE call = $1 AND undo_window > 0 ORDER BY id DESC LIMIT 10`, call)
}
