package findings

import (
	"context"
	"encoding/json/v2"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Service opens, lists, mutes and closes findings.
type Service struct {
	db  *storage.DB
	log *audit.Log
	now func() time.Time

	mostOpen int
}

// New returns a Service. now is time.Now if nil.
func New(db *storage.DB, log *audit.Log, now func() time.Time) *Service {
	if now == nil {
		now = time.Now
	}
	return &Service{db: db, log: log, now: now, mostOpen: mostOpen}
}

// Open opens a finding in a change of its own. ID, Status and times are set by
// the Service.
func (s *Service) Open(ctx context.Context, f Finding) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error { return s.OpenTx(ctx, tx, f) })
}

// attempts is how often a change of a finding is tried while others change it.
const attempts = 5

// errContended reports that others changed the finding in every attempt.
var errContended = storage.ErrUnavailable.Say("the finding is being changed by others; try again")

// mostOpen is how many findings of one rule are open at most; what is seen beyond
// is counted in a single one about OverflowObject, so that nobody can bury what
// matters, or fill the disk, by making many things to be found.
const mostOpen = 10_000

// OverflowObject is what the finding is about that counts those beyond the limit.
const OverflowObject = "findings/more"

// OpenTx opens a finding inside a change. If one with the same rule and object
// is open, that one is brought up to date, and nothing is written if it says
// the same already; if one was closed, it is reopened. f.Count is how many
// sightings the call stands for, one for each of its events if it is 0.
func (s *Service) OpenTx(ctx context.Context, tx *audit.Tx, f Finding) error {
	if err := f.prepare(); err != nil {
		return err
	}
	now := s.now()
	f.ID, f.Status, f.Opened, f.Updated = id.At(id.Finding, now), Open, now, now
	for range attempts { // the open one may be closed or updated while we look
		found, err := s.latest(ctx, tx, f.Rule, f.Object)
		if err != nil {
			return err
		}
		if len(found) == 0 && f.Object != OverflowObject {
			over, err := full(ctx, tx, f.Rule, s.mostOpen)
			if err != nil {
				return err
			}
			if over {
				f.Detail = cut("More than "+strconv.Itoa(s.mostOpen)+" findings of this rule are open, so further ones are counted here alone. The last was about "+f.Object+": "+f.Title, 8<<10)
				f.Object, f.Agent, f.Title = OverflowObject, "", "More is found than can be listed: "+f.Rule
				continue
			}
		}
		done, err := s.openOrUpdate(ctx, tx, found, f)
		if done || err != nil {
			return err
		}
	}
	return errContended
}

func (s *Service) openOrUpdate(ctx context.Context, tx *audit.Tx, found []Finding, f Finding) (done bool, err error) {
	if len(found) == 0 {
		made, err := insert(ctx, tx, f)
		if made && err == nil {
			tx.Record(event("finding.opened", audit.System, "", f))
		}
		return made, err
	}
	old, kind := found[0], audit.Type("finding.updated")
	next, changed := merge(old, f)
	told := tell(old, next)
	if old.Status == Closed {
		next, changed, told, kind = back(old, f), true, true, "finding.reopened"
	}
	if !changed {
		return true, nil
	}
	if told {
		next.told = f.Updated
	}
	done, err = update(ctx, tx, next)
	if done && err == nil && told {
		tx.Record(event(kind, audit.System, "", next))
	}
	return done, err
}

// event returns the event about f. Its object is what the finding is about, so
// that a search for the object shows what was found.
func event(t audit.Type, by audit.Actor, reason string, f Finding) audit.Event {
	detail := map[string]string{"finding": f.ID, "rule": f.Rule, "severity": f.Severity, "title": f.Title, "count": strconv.FormatInt(f.Count, 10)}
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
	State, Agent                   string // State tells muted from open ones; Status does not
	Tuned                          bool   // only those with a note for tuning
	Before                         string // older than this finding, for paging
	Limit                          int    // 0 means 100; at most 1000
}

// List returns findings, those opened or reopened last first.
func (s *Service) List(ctx context.Context, q Query) ([]Finding, error) {
	if q.Before != "" && !id.Is(id.Finding, q.Before) {
		return nil, ErrCursor
	}
	if q.Limit <= 0 {
		q.Limit = 100
	}
	tuned := 0
	if q.Tuned {
		tuned = 1
	}
	return read(ctx, s.db, s.now(), ` WHERE ($2 = '' OR f.status = $2) AND ($3 = '' OR f.rule = $3) AND ($4 = '' OR f.severity = $4)
		AND ($5 = '' OR f.object = $5) AND ($6 = '' OR f.agent = $6) AND ($7 = 0 OR f.tune <> '')
		AND ($8 = '' OR $8 = 'closed' AND f.status = 'closed' OR $8 = 'open' AND f.status = 'open' AND `+muted+` = 0 OR $8 = 'muted' AND f.status = 'open' AND `+muted+` > 0)
		AND ($9 = '' OR (f.opened, f.id) < (SELECT b.opened, b.id FROM findings b WHERE b.id = $9)) ORDER BY f.opened DESC, f.id DESC LIMIT $10`,
		q.Status, q.Rule, q.Severity, q.Object, q.Agent, tuned, q.State, q.Before, min(q.Limit, 1000))
}

// Get returns a finding.
func (s *Service) Get(ctx context.Context, id string) (Finding, error) { return s.get(ctx, s.db, id) }

func (s *Service) get(ctx context.Context, q querier, id string) (Finding, error) {
	found, err := read(ctx, q, s.now(), ` WHERE f.id = $2`, id)
	if err != nil {
		return Finding{}, err
	}
	if len(found) == 0 {
		return Finding{}, ErrNotFound
	}
	return found[0], nil
}

// because returns a reason as it is kept, ErrReason if there is none.
func because(reason string) (string, error) {
	reason = strings.TrimSpace(reason)
	if reason == "" || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) {
		return "", ErrReason
	}
	return reason, nil
}

// change reads a finding, lets fn change it, writes it and records the event.
func (s *Service) change(ctx context.Context, tx *audit.Tx, id string, by audit.Actor, t audit.Type, reason string, fn func(f *Finding) error) error {
	for range attempts {
		f, err := s.get(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := fn(&f); err != nil {
			return err
		}
		done, err := update(ctx, tx, f)
		if err != nil {
			return err
		}
		if done {
			tx.Record(event(t, by, reason, f))
			return nil
		}
	}
	return errContended
}

// Close closes an open finding. Needs a reason.
func (s *Service) Close(ctx context.Context, by audit.Actor, id, reason string) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error { return s.CloseTx(ctx, tx, by, id, reason) })
}

// CloseTx is Close inside a change.
func (s *Service) CloseTx(ctx context.Context, tx *audit.Tx, by audit.Actor, id, reason string) error {
	reason, err := because(reason)
	if err != nil {
		return err
	}
	return s.change(ctx, tx, id, by, "finding.closed", reason, func(f *Finding) error {
		switch {
		case f.NotBy != "" && by.ID == f.NotBy:
			return ErrNotYou
		case f.Status == Closed:
			return ErrClosed
		}
		now := s.now()
		f.Status, f.Closed, f.Updated, f.ClosedBy, f.Reason = Closed, now, now, by.Name, reason
		f.History = did(f.History, Act{At: now, Act: "closed", By: by.Name, Reason: reason})
		return nil
	})
}

// Tune notes on a finding, open or closed, how its rule should be set: for whoever
// tunes it. It replaces the note before.
func (s *Service) Tune(ctx context.Context, by audit.Actor, id, note string) error {
	note, err := because(note)
	if err != nil {
		return err
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		return s.change(ctx, tx, id, by, "finding.tuned", note, func(f *Finding) error {
			f.Tune, f.Updated = note, s.now()
			f.History = did(f.History, Act{At: f.Updated, Act: "tuned", By: by.Name, Reason: note})
			return nil
		})
	})
}

// CloseObjectTx closes, inside a change, the open findings of some rules about
// an object: the room that opened them sees that it is right again.
func (s *Service) CloseObjectTx(ctx context.Context, tx *audit.Tx, by audit.Actor, object, reason string, rules ...string) error {
	found, err := read(ctx, tx, s.now(), ` WHERE f.object = $2 AND f.status = 'open' ORDER BY f.id`, object)
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
