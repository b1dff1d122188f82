package inventory

import (
	"context"
	"encoding/json/v2"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
)

// The events of this room.
const (
	SetAsideEvent audit.Type = "inventory.set_aside"  // an entry is nothing to act on until a time
	TakenBack     audit.Type = "inventory.taken_back" // it is again
)

// Bounds of what is set aside.
const (
	longestAside = 366 * 24 * time.Hour
	mostAsides   = 2000 // in force
)

// Errors of this package.
var (
	ErrNoEntry  = fault.New(fault.NotFound, "entry_not_found", "the difference has no such entry; countersign inventory diff lists them")
	ErrNotAside = fault.New(fault.NotFound, "not_set_aside", "it is not set aside")
	ErrUntil    = fault.New(fault.Invalid, "aside_until", "say until when: a time to come, within a year (--until 2027-01-31, or 30d)")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why, in at most 1000 characters (--reason)")
	ErrAsides   = fault.New(fault.Conflict, "too_many_asides", "two thousand entries are set aside; take some of them back, or act on them")
)

// SetAside says that an entry of the difference is known, until a time and for a
// reason: it is nothing to act on until then, and E1 passes over it. Doing it
// again changes time and reason. Needs a reason.
func (s *Service) SetAside(ctx context.Context, by audit.Actor, reason, entry string, until time.Time) (Entry, error) {
	now := s.o.Now()
	reason = strings.TrimSpace(reason)
	switch {
	case reason == "" || utf8.RuneCountInString(reason) > 1000:
		return Entry{}, ErrReason
	case !until.After(now) || until.Sub(now) > longestAside:
		return Entry{}, ErrUntil
	}
	e, err := s.Entry(ctx, entry)
	if err != nil {
		return e, err
	}
	a := Aside{Until: until.UTC().Truncate(time.Microsecond), Reason: reason, By: by.Name, At: now.UTC().Truncate(time.Microsecond), Event: id.At(id.Event, now)}
	err = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(asideEvent(SetAsideEvent, a.Event, by, reason, e, a.Until))
		return putAside(ctx, tx.Tx, e.key, a, mostAsides)
	})
	e.Aside = &a
	return e, err
}

// TakeBack ends that an entry is set aside. Needs a reason.
func (s *Service) TakeBack(ctx context.Context, by audit.Actor, reason, entry string) (Entry, error) {
	if reason = strings.TrimSpace(reason); reason == "" || utf8.RuneCountInString(reason) > 1000 {
		return Entry{}, ErrReason
	}
	e, err := s.Entry(ctx, entry)
	if err != nil {
		return e, err
	}
	now := s.o.Now()
	err = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(asideEvent(TakenBack, id.At(id.Event, now), by, reason, e, time.Time{}))
		return endAside(ctx, tx.Tx, e.key, now)
	})
	e.Aside = nil
	return e, err
}

// Entry returns an entry of the difference.
func (s *Service) Entry(ctx context.Context, entry string) (Entry, error) {
	d, err := s.Difference(ctx)
	if err != nil {
		return Entry{}, err
	}
	i := slices.IndexFunc(d.Entries, func(e Entry) bool { return e.ID == entry })
	if i < 0 {
		return Entry{}, ErrNoEntry
	}
	return d.Entries[i], nil
}

func asideEvent(t audit.Type, event string, by audit.Actor, reason string, e Entry, until time.Time) audit.Event {
	detail := map[string]string{"kind": e.Kind, "name": e.Name, "state": e.State}
	if !until.IsZero() {
		detail["until"] = until.Format(time.RFC3339)
	}
	b, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		b = nil // cannot be: tame made the name valid
	}
	return audit.Event{ID: event, Type: t, Actor: by, Object: "inventory/" + e.ID, Reason: reason, Detail: b}
}
