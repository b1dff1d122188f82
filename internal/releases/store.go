package releases

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"fmt"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func gather[T any](ctx context.Context, q querier, scan func(*sql.Rows, *T) error, text string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, fmt.Errorf("releases: read a row: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func readReleases(ctx context.Context, q querier, where string, args ...any) ([]Release, error) {
	return gather(ctx, q, func(rows *sql.Rows, r *Release) error {
		var content string
		var created int64
		err := rows.Scan(&r.ID, &r.Agent, &r.Number, &r.Digest, &content, &r.Reason, &r.By, &created)
		r.Created = storage.Time(created)
		return errors.Join(err, json.Unmarshal([]byte(content), &r.Content))
	}, `SELECT id, agent, number, digest, content, reason, made_by, created FROM releases`+where, args...)
}

// readRelease returns one release, ErrNotFound if there is none.
func readRelease(ctx context.Context, q querier, agent string, number int64) (Release, error) {
	found, err := readReleases(ctx, q, ` WHERE agent = $1 AND number = $2`, agent, number)
	switch {
	case err != nil:
		return Release{}, err
	case len(found) == 0:
		return Release{}, ErrNotFound.Say("there is no release %d of %q", number, agent)
	}
	return found[0], nil
}

// insertRelease writes a release under the agent's next number.
func insertRelease(ctx context.Context, tx *audit.Tx, r *Release, content string) error {
	if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(number), 0) + 1 FROM releases WHERE agent = $1`, r.Agent).Scan(&r.Number); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO releases (agent, number, id, digest, content, reason, made_by, created) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		r.Agent, r.Number, r.ID, r.Digest, content, r.Reason, r.By, storage.Micros(r.Created))
	if storage.Duplicate(err) {
		return ErrRaced
	}
	return err
}

func readStates(ctx context.Context, q querier, where string, args ...any) ([]State, error) {
	return gather(ctx, q, func(rows *sql.Rows, s *State) error {
		var since int64
		var signals, rolled string
		if err := rows.Scan(&s.Agent, &s.Stage, &s.Active, &s.Canary, &s.Percent, &signals, &s.position, &since, &s.revision, &rolled); err != nil {
			return err
		}
		s.Since = storage.Time(since)
		return errors.Join(optional(signals, &s.Signals), optional(rolled, &s.rolled))
	}, `SELECT agent, stage, active, canary, share, signals, position, since, revision, rolled FROM release_states`+where, args...)
}

// optional reads a text that may be empty.
func optional(text string, v any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), v)
}

// texts writes what optional reads; what is nil is empty.
func texts[T any](v *T) (string, error) {
	if v == nil {
		return "", nil
	}
	b, err := json.Marshal(v, json.Deterministic(true))
	return string(b), err
}

// readState returns an agent's state, with revision 0 if it has none.
func readState(ctx context.Context, q querier, agent string) (State, error) {
	found, err := readStates(ctx, q, ` WHERE agent = $1`, agent)
	if err != nil || len(found) == 0 {
		return State{Agent: agent}, err
	}
	return found[0], nil
}

// putState writes what was read at s.revision; ErrRaced if it moved since.
func putState(ctx context.Context, tx *audit.Tx, s State) error {
	signals, err := texts(s.Signals)
	if err != nil {
		return err
	}
	rolled, err := texts(&s.rolled)
	if err != nil {
		return err
	}
	if s.revision == 0 {
		_, err := tx.Exec(ctx, `INSERT INTO release_states (agent, stage, active, canary, share, signals, position, since, revision, rolled) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9)`,
			s.Agent, s.Stage, s.Active, s.Canary, s.Percent, signals, s.position, storage.Micros(s.Since), rolled)
		if storage.Duplicate(err) {
			return ErrRaced
		}
		return err
	}
	err = tx.ExecOne(ctx, `UPDATE release_states SET stage = $1, active = $2, canary = $3, share = $4, signals = $5, position = $6, since = $7, rolled = $8, revision = revision + 1
		WHERE agent = $9 AND revision = $10`, s.Stage, s.Active, s.Canary, s.Percent, signals, s.position, storage.Micros(s.Since), rolled, s.Agent, s.revision)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrRaced
	}
	return err
}

func readMoves(ctx context.Context, q querier, agent string) ([]Move, error) {
	return gather(ctx, q, func(rows *sql.Rows, m *Move) error {
		var at int64
		var took string
		err := rows.Scan(&m.ID, &m.Agent, &m.Kind, &m.Stage, &m.Number, &m.Previous, &m.Reason, &m.By, &at, &took)
		m.At = storage.Time(at)
		return errors.Join(err, optional(took, &m.took))
	}, `SELECT id, agent, kind, stage, number, previous, reason, moved_by, at, took FROM release_moves WHERE agent = $1 ORDER BY id DESC`, agent)
}

func insertMove(ctx context.Context, tx *audit.Tx, m Move) error {
	took, err := texts(&m.took)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO release_moves (id, agent, kind, stage, number, previous, reason, moved_by, at, took) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		m.ID, m.Agent, m.Kind, m.Stage, m.Number, m.Previous, m.Reason, m.By, storage.Micros(m.At), took)
	return err
}

// forget removes everything of an agent.
func forget(ctx context.Context, tx *audit.Tx, agent string) error {
	for _, table := range []string{"release_requests", "release_moves", "release_states", "releases"} {
		if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE agent = $1`, agent); err != nil {
			return err
		}
	}
	return nil
}

func readRequests(ctx context.Context, q querier, where string, args ...any) ([]Request, error) {
	return gather(ctx, q, func(rows *sql.Rows, r *Request) error {
		var signals, accepted string
		var asked, expires, decided int64
		if err := rows.Scan(&r.ID, &r.Agent, &r.Number, &r.Digest, &r.Stage, &r.Percent, &signals, &accepted, &r.State, &r.Reason, &r.asker, &r.By, &asked, &expires, &r.DecidedBy, &decided, &r.Answer); err != nil {
			return err
		}
		r.Asked, r.Expires, r.Decided = storage.Time(asked), storage.Time(expires), storage.Time(decided)
		if signals == "" {
			return json.Unmarshal([]byte(accepted), &r.Accepted)
		}
		return errors.Join(json.Unmarshal([]byte(accepted), &r.Accepted), json.Unmarshal([]byte(signals), &r.Signals))
	}, `SELECT id, agent, number, digest, stage, share, signals, accepted, state, reason, asker, asked_by, asked, expires, decided_by, decided, answer FROM release_requests`+where, args...)
}

// Request returns a promotion that was asked for.
func (s *Service) Request(ctx context.Context, request string) (Request, error) {
	found, err := readRequests(ctx, s.o.DB, ` WHERE id = $1`, request)
	switch {
	case err != nil:
		return Request{}, err
	case len(found) == 0:
		return Request{}, ErrNoAsk
	}
	return s.aged(found[0]), nil
}

// Requests returns promotions that were asked for, the latest first; those that
// wait unless all.
func (s *Service) Requests(ctx context.Context, all bool) ([]Request, error) {
	found, err := readRequests(ctx, s.o.DB, ` WHERE $1 OR state = 'open' ORDER BY id DESC LIMIT 500`, all)
	out := []Request{}
	for _, q := range found {
		if q = s.aged(q); all || q.State == StateOpen {
			out = append(out, q)
		}
	}
	return out, err
}

// aged says of a request whose time is over that it is.
func (s *Service) aged(q Request) Request {
	if q.State == StateOpen && !s.o.Now().Before(q.Expires) {
		q.State = StateExpired
	}
	return q
}

func (s *Service) insertRequest(ctx context.Context, tx *audit.Tx, q Request) error {
	signals, err := texts(q.Signals)
	if err != nil {
		return err
	}
	accepted, err := json.Marshal(q.Accepted)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO release_requests (id, agent, number, digest, stage, share, signals, accepted, state, reason, asker, asked_by, asked, expires, decided_by, decided, answer)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, '', 0, '')`,
		q.ID, q.Agent, q.Number, q.Digest, q.Stage, q.Percent, signals, string(accepted), q.State, q.Reason, q.asker, q.By, storage.Micros(q.Asked), storage.Micros(q.Expires))
	return err
}

// decideTx ends a request that waits; ErrDecided if it does not any more.
func (s *Service) decideTx(ctx context.Context, tx *audit.Tx, q *Request, by audit.Actor, reason, state string) error {
	now := storage.Time(storage.Micros(s.o.Now()))
	err := tx.ExecOne(ctx, `UPDATE release_requests SET state = $1, decided_by = $2, decided = $3, answer = $4 WHERE id = $5 AND state = 'open' AND expires > $3`,
		state, by.Name, storage.Micros(now), reason, q.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrDecided
	}
	q.State, q.DecidedBy, q.Decided, q.Answer = state, by.Name, now, reason
	return err
}

// here returns the log's present end, as text.
func (s *Service) here(ctx context.Context, tx *audit.Tx) (string, error) {
	lanes, err := gather(ctx, tx, func(rows *sql.Rows, l *[2]int64) error { return rows.Scan(&l[0], &l[1]) }, `SELECT lane, sn FROM lanes`)
	if err != nil {
		return "", err
	}
	at := audit.Cursor{}
	for _, l := range lanes {
		at[l[0]] = l[1]
	}
	b, err := json.Marshal(at, json.Deterministic(true))
	return string(b), err
}
