package findings

import (
	"context"
	"encoding/json/v2"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Service opens, lists and closes findings.
type Service struct {
	db  *storage.DB
	log *audit.Log
	now func() time.Time
}

// New returns a Service. now is time.Now if nil.
func New(db *storage.DB, log *audit.Log, now func() time.Time) *Service {
	if now == nil {
		now = time.Now
	}
	return &Service{db: db, log: log, now: now}
}

// Open opens a finding in a change of its own. ID, Status and times are set by
// the Service.
func (s *Service) Open(ctx context.Context, f Finding) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error { return s.OpenTx(ctx, tx, f) })
}

// OpenTx opens a finding inside a change. If one with the same rule and object
// is open, that one is brought up to date, and nothing is written if it says
// the same already.
func (s *Service) OpenTx(ctx context.Context, tx *audit.Tx, f Finding) error {
	if err := f.prepare(); err != nil {
		return err
	}
	now := s.now()
	f.ID, f.Status, f.Opened, f.Updated = id.At(id.Finding, now), Open, now, now
	const attempts = 3 // the open one may be closed or updated while we look
	for range attempts {
		found, err := readOpen(ctx, tx, f.Rule, f.Object)
		if err != nil {
			return err
		}
		done, err := s.openOrUpdate(ctx, tx, found, f)
		if done || err != nil {
			return err
		}
	}
	return storage.ErrUnavailable.Say("the finding is being changed by others; try again")
}

func (s *Service) openOrUpdate(ctx context.Context, tx *audit.Tx, found []Finding, f Finding) (done bool, err error) {
	if len(found) == 0 {
		made, err := insert(ctx, tx, f)
		if made && err == nil {
			tx.Record(event("finding.opened", audit.System, "", f))
		}
		return made, err
	}
	next, changed := merge(found[0], f)
	if !changed {
		return true, nil
	}
	next.Updated = f.Updated
	done, err = update(ctx, tx, next)
	if done && err == nil {
		tx.Record(event("finding.updated", audit.System, "", next))
	}
	return done, err
}

// event returns the event about f. Its object is what the finding is about, so
// that a search for the object shows what was found.
func event(t audit.Type, by audit.Actor, reason string, f Finding) audit.Event {
	detail := map[string]string{"finding": f.ID, "rule": f.Rule, "severity": f.Severity, "title": f.Title}
	if f.Detail != "" {
		detail["detail"] = cut(f.Detail, 2<<10) // events are small
	}
	b, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		b = nil // cannot be: strings made valid by prepare
	}
	return audit.Event{Type: t, Actor: by, Object: f.Object, Reason: reason, Detail: b}
}

// Query selects findings; zero fields select all.
type Query struct {
	Status, Rule, Severity, Object string
	Before                         string // older than this finding, for paging
	Limit                          int    // 0 means 100; at most 1000
}

// List returns findings, newest first.
func (s *Service) List(ctx context.Context, q Query) ([]Finding, error) {
	if q.Before != "" && !id.Is(id.Finding, q.Before) {
		return nil, ErrCursor
	}
	if q.Limit <= 0 {
		q.Limit = 100
	}
	return read(ctx, s.db, ` WHERE ($1 = '' OR status = $1) AND ($2 = '' OR rule = $2) AND ($3 = '' OR severity = $3)
		AND ($4 = '' OR object = $4) AND ($5 = '' OR id < $5) ORDER BY id DESC LIMIT $6`,
		q.Status, q.Rule, q.Severity, q.Object, q.Before, min(q.Limit, 1000))
}

// Get returns a finding.
func (s *Service) Get(ctx context.Context, id string) (Finding, error) { return get(ctx, s.db, id) }

func get(ctx context.Context, q querier, id string) (Finding, error) {
	found, err := read(ctx, q, ` WHERE id = $1`, id)
	if err != nil {
		return Finding{}, err
	}
	if len(found) == 0 {
		return Finding{}, ErrNotFound
	}
	return found[0], nil
}

// Close closes an open finding. Needs a reason.
func (s *Service) Close(ctx context.Context, by audit.Actor, id, reason string) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error { return s.CloseTx(ctx, tx, by, id, reason) })
}

// CloseTx is Close inside a change.
func (s *Service) CloseTx(ctx context.Context, tx *audit.Tx, by audit.Actor, id, reason string) error {
	reason = strings.TrimSpace(reason)
	if reason == "" || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) {
		return ErrReason
	}
	f, err := get(ctx, tx, id)
	if err != nil {
		return err
	}
	if f.NotBy != "" && by.ID == f.NotBy {
		return ErrNotYou
	}
	err = tx.ExecOne(ctx, `UPDATE findings SET status = 'closed', closed = $1, updated = $1, closed_by = $2, reason = $3, revision = revision + 1
		WHERE id = $4 AND status = 'open'`, storage.Micros(s.now()), by.Name, reason, id)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrClosed
	}
	if err == nil {
		tx.Record(event("finding.closed", by, reason, f))
	}
	return err
}

// CloseObjectTx closes, inside a change, the open findings of some rules about
// an object: the room that opened them sees that it is right again.
func (s *Service) CloseObjectTx(ctx context.Context, tx *audit.Tx, by audit.Actor, object, reason string, rules ...string) error {
	found, err := read(ctx, tx, ` WHERE object = $1 AND status = 'open' ORDER BY id`, object)
	if err != nil {
		return err
	}
	for _, f := range found {
		if !slices.Contains(rules, f.Rule) {
			continue
		}
		if err := s.CloseTx(ctx, tx, by, f.ID, reason); err != nil && !errors.Is(err, ErrClosed) {
			return err
		}
	}
	return nil
}
