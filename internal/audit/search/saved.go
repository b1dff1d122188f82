package search

import (
	"context"
	"encoding/json/v2"
	"errors"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/storage"
)

// Errors of saved searches.
var (
	ErrNoSaved   = fault.New(fault.NotFound, "no_such_search", "no saved search of yours, and none shared by that person, has this name; list them with: countersign log searches list")
	ErrSavedName = fault.New(fault.Invalid, "bad_search_name", "a saved search's name must be 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit")
	ErrSavedMany = fault.New(fault.Limited, "too_many_searches", "you have 200 saved searches; delete one first")
	ErrReason    = fault.New(fault.Invalid, "reason_too_long", "a reason has at most 1000 characters")
)

// maxSaved is how many searches a person may save.
const maxSaved = 200

var savedForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Saved is a search that a person keeps under a name.
type Saved struct {
	ID      string    `json:"id" doc:"owner/name"`
	Owner   string    `json:"owner"`
	Name    string    `json:"name"`
	Query   string    `json:"query"`
	Shared  bool      `json:"shared" doc:"others may use it"`
	Mine    bool      `json:"mine,omitzero" doc:"it is yours"`
	Updated time.Time `json:"updated"`
}

// Save keeps a search, or replaces the one of the same name. The query must be
// one that Parse reads; durations in it count from when it is used. The event
// does not repeat the query, which may name people.
func (s *Service) Save(ctx context.Context, by audit.Actor, reason string, v Saved) (Saved, error) {
	v.Owner, v.ID, v.Updated = by.Name, by.Name+"/"+v.Name, s.o.Now().UTC().Truncate(time.Microsecond)
	if !savedForm.MatchString(v.Name) {
		return v, ErrSavedName
	}
	if err := checkReason(reason); err != nil {
		return v, err
	}
	if strings.ContainsRune(v.Query, 0) {
		return v, ErrQuery.Say("the query holds a NUL")
	}
	if _, err := Parse(v.Query, s.o.Now()); err != nil {
		return v, err
	}
	return v, s.log.Change(ctx, func(tx *audit.Tx) error {
		var others int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM saved_searches WHERE owner = $1 AND name <> $2`, v.Owner, v.Name).Scan(&others); err != nil {
			return err
		}
		if others >= maxSaved {
			return ErrSavedMany
		}
		if _, err := tx.Exec(ctx, `INSERT INTO saved_searches (owner, name, query, shared, updated) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (owner, name) DO UPDATE SET query = $3, shared = $4, updated = $5`, v.Owner, v.Name, v.Query, v.Shared, storage.Micros(v.Updated)); err != nil {
			return err
		}
		tx.Record(savedEvent("search.saved", by, reason, v))
		return nil
	})
}

// DeleteSaved forgets a search of by's.
func (s *Service) DeleteSaved(ctx context.Context, by audit.Actor, reason, name string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		err := tx.ExecOne(ctx, `DELETE FROM saved_searches WHERE owner = $1 AND name = $2`, by.Name, name)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrNoSaved
		}
		if err == nil {
			tx.Record(savedEvent("search.deleted", by, reason, Saved{ID: by.Name + "/" + name}))
		}
		return err
	})
}

func checkReason(reason string) error {
	if utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) {
		return ErrReason
	}
	return nil
}

func savedEvent(t audit.Type, by audit.Actor, reason string, v Saved) audit.Event {
	b, err := json.Marshal(map[string]any{"shared": v.Shared}, json.Deterministic(true))
	if err != nil {
		b = nil // a truth value always marshals
	}
	return audit.Event{Type: t, Actor: by, Object: "search/" + v.ID, Reason: reason, Detail: b}
}

// SavedBy returns the searches that user may use: their own, and what others
// share.
func (s *Service) SavedBy(ctx context.Context, user string) ([]Saved, error) {
	rows, err := s.db.Query(ctx, `SELECT owner, name, query, shared, updated FROM saved_searches WHERE owner = $1 OR shared ORDER BY owner, name`, user)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []Saved{}
	for rows.Next() {
		var v Saved
		var updated int64
		if err := rows.Scan(&v.Owner, &v.Name, &v.Query, &v.Shared, &updated); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		v.ID, v.Mine, v.Updated = v.Owner+"/"+v.Name, v.Owner == user, storage.Time(updated)
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}
