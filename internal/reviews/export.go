package reviews

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// Format names the form of an exported review.
const Format = "countersign-review-v1"

// ErrNoProofs says that the log does not prove anything yet.
var ErrNoProofs = fault.New(fault.Unavailable, "not_sealed_yet", "the log does not seal what was recorded, so it cannot be proven; try again in a moment")

// Exported is a review with the proofs that the log says so: each is a proof file
// of an event (docs/proof-format.md).
type Exported struct {
	Format   string            `json:"format"`
	Exported time.Time         `json:"exported"`
	By       string            `json:"by"`
	Review   Review            `json:"review"`
	Proofs   map[string]string `json:"proofs" doc:"by the identifier of the event"`
}

const sealWithin = 20 * time.Second

// Export returns a review with a proof of every event of it, and records that it left.
func (s *Service) Export(ctx context.Context, by audit.Actor, reason, which string) (Exported, error) {
	out := Exported{Format: Format, Exported: s.now(), By: by.Name, Proofs: map[string]string{}}
	if s.o.Prove == nil {
		return out, ErrNoProofs
	}
	if err := checkReason(reason, false); err != nil {
		return out, err
	}
	var err error
	if out.Review, err = s.Get(ctx, which); err != nil {
		return out, err
	}
	events := []string{out.Review.Event}
	for _, it := range out.Review.Items {
		events = append(events, it.Events...)
		for _, p := range it.Remedy.Probes {
			events = append(events, p.Event)
		}
		if it.Remedy.Used != nil {
			events = append(events, it.Remedy.Used.Event)
		}
	}
	if out.Review.State == Closed {
		end, err := s.ending(ctx, &out.Review)
		if err != nil {
			return out, err
		}
		events = append(events, end)
	}
	within := time.Now().Add(sealWithin)
	for _, ev := range events {
		if ev == "" || out.Proofs[ev] != "" {
			continue
		}
		if out.Proofs[ev], err = s.proof(ctx, ev, within); err != nil {
			return out, err
		}
	}
	_, err = s.o.Log.Append(ctx, out.Review.event("review.exported", by, reason, map[string]any{"events": len(out.Proofs)}))
	return out, err
}

// ending returns the event with which a review was closed, "" if it is not there.
func (s *Service) ending(ctx context.Context, r *Review) (string, error) {
	recs, err := s.o.Log.List(ctx, audit.Query{Types: []audit.Type{"review.closed"}, Since: r.Created, Oldest: true, Limit: 1000})
	for _, rec := range recs {
		if rec.Event.Object == object(r) {
			return rec.Event.ID, nil
		}
	}
	return "", err
}

// proof waits the moment it takes until an event is sealed.
func (s *Service) proof(ctx context.Context, event string, within time.Time) (string, error) {
	for {
		b, err := s.o.Prove(ctx, event)
		if err == nil {
			return string(b), nil
		}
		if fault.Public(err).Code != ErrNoProofs.Code || time.Now().After(within) {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
