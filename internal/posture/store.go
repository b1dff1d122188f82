package posture

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

func insertRun(ctx context.Context, tx *audit.Tx, r Run) error {
	_, err := tx.Exec(ctx, `INSERT INTO posture_runs (id, actor, reason, started, ended, event) VALUES ($1, $2, $3, $4, $5, $6)`,
		r.ID, r.By, r.Reason, storage.Micros(r.Started), storage.Micros(r.Ended), r.Event)
	return err
}

func insert(ctx context.Context, tx *audit.Tx, r Run, e Evidence, digest string) error {
	body, err := json.Marshal(e, json.FormatNilSliceAsNull(false))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO posture_evidence (id, run, predicate, result, collected, expires, event, digest, body, population, evaluated, violated) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
		e.ID, r.ID, e.Predicate, string(e.Result), storage.Micros(e.Collected), storage.Micros(e.Expires), r.Event, digest, string(body), e.Population, e.Evaluated, e.Violated)
	return err
}

// Stored is evidence with where it stands.
type Stored struct {
	Evidence
	Event  string `json:"event" doc:"of its run; it holds the digest"`
	Digest string `json:"digest" doc:"hex SHA-256 of the evidence as canonical JSON"`
}

// errAltered says that stored evidence is not what its run recorded.
const errAltered = "the stored evidence is not what was computed: its digest differs"

func (s *Service) read(ctx context.Context, where string, args ...any) ([]Stored, error) {
	rows, err := s.o.DB.Query(ctx, `SELECT event, digest, body FROM posture_evidence`+where, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []Stored{}
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// scan reads a row. Evidence that is not what was computed counts as none.
func scan(rows *sql.Rows) (x Stored, err error) {
	var body string
	if err := rows.Scan(&x.Event, &x.Digest, &body); err != nil {
		return x, err
	}
	if err := json.Unmarshal([]byte(body), &x.Evidence); err != nil {
		return x, err
	}
	digest, err := x.Evidence.Digest()
	if err == nil && digest != x.Digest {
		x.Result, x.Reason = NoData, errAltered
	}
	return x, err
}

// latest returns the newest evidence of each predicate that has any.
func (s *Service) latest(ctx context.Context) (map[string]Stored, error) {
	all, err := s.read(ctx, ` WHERE id IN (SELECT MAX(id) FROM posture_evidence GROUP BY predicate)`)
	out := map[string]Stored{}
	for _, x := range all {
		out[x.Predicate] = x
	}
	return out, err
}

// history returns what each predicate came to, the oldest first, as far as it
// counted after a time.
func (s *Service) history(ctx context.Context, since time.Time) (map[string][]between, error) {
	rows, err := s.o.DB.Query(ctx, `SELECT predicate, collected, expires, result, population, evaluated, violated, id FROM posture_evidence WHERE expires > $1 ORDER BY predicate, collected`, storage.Micros(since))
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := map[string][]between{}
	for rows.Next() {
		var predicate, r string
		var at, end int64
		var b between
		if err := rows.Scan(&predicate, &at, &end, &r, &b.population, &b.evaluated, &b.violated, &b.evidence); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		b.result, b.at, b.expiry = Result(r), storage.Time(at), storage.Time(end)
		out[predicate] = append(out[predicate], b)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// onlyRow is the one row of posture_progress.
const onlyRow = 1

// note begins the progress of a run. Like what it is computed from, it is an
// observation and no change: the run itself is an event when it has ended.
func (s *Service) note(ctx context.Context, p Progress) error {
	return s.o.DB.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO posture_progress (id, run, actor, started, updated, ended, asked, done, problem) VALUES ($1, $2, $3, $4, $4, 0, $5, '', '')
			ON CONFLICT (id) DO UPDATE SET run = excluded.run, actor = excluded.actor, started = excluded.started, updated = excluded.updated, ended = 0, asked = excluded.asked, done = '', problem = ''`,
			onlyRow, p.Run, p.By, storage.Micros(p.Started), strings.Join(p.Asked, " "))
		return err
	})
}

// step notes that a predicate of a run is computed.
func (s *Service) step(ctx context.Context, run, predicate string) error {
	return s.o.DB.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE posture_progress SET done = done || ' ' || $1, updated = $2 WHERE run = $3`, predicate, storage.Micros(s.o.Now()), run)
		return err
	})
}

// over notes that a run ended, and with what problem.
func (s *Service) over(ctx context.Context, run, problem string) error {
	return s.o.DB.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE posture_progress SET ended = $1, updated = $1, problem = $2 WHERE run = $3`, storage.Micros(s.o.Now()), problem, run)
		return err
	})
}

func (s *Service) noted(ctx context.Context) (p Progress, err error) {
	var started, updated, ended int64
	var asked, done string
	err = s.o.DB.QueryRow(ctx, `SELECT run, actor, started, updated, ended, asked, done, problem FROM posture_progress WHERE id = $1`, onlyRow).
		Scan(&p.Run, &p.By, &started, &updated, &ended, &asked, &done, &p.Problem)
	p.Asked, p.Done = fields(asked), fields(done)
	if storage.NoRows(err) {
		return p, nil
	}
	if err != nil {
		return p, storage.ErrUnavailable.With(err)
	}
	p.Started, p.touched, p.Ended = storage.Time(started), storage.Time(updated), storage.Time(ended)
	return p, nil
}

// expire deletes the results that are older than they are kept, but for the
// newest of each predicate, and the runs of which none is left.
func (s *Service) expire(ctx context.Context) error {
	before := storage.Micros(s.o.Now().Add(-s.o.Keep))
	const old = `collected < $1 AND id NOT IN (SELECT MAX(id) FROM posture_evidence GROUP BY predicate)`
	var n int64
	if err := s.o.DB.QueryRow(ctx, `SELECT COUNT(*) FROM posture_evidence WHERE `+old, before).Scan(&n); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	if n == 0 {
		return nil
	}
	return s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		res, err := tx.Exec(ctx, `DELETE FROM posture_evidence WHERE `+old, before)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil || n == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM posture_runs WHERE started < $1 AND id NOT IN (SELECT run FROM posture_evidence)`, before); err != nil {
			return err
		}
		tx.Record(audit.Event{Type: Expired, Actor: audit.System, Object: "posture/evidence", Detail: fmt.Appendf(nil, `{"results":%d,"days":%d}`, n, s.o.Keep/day)})
		return nil
	})
}
