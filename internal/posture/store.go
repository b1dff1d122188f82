package posture

import (
	"context"
	"database/sql"
	"encoding/json/v2"
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
	_, err = tx.Exec(ctx, `INSERT INTO posture_evidence (id, run, predicate, result, collected, expires, event, digest, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		e.ID, r.ID, e.Predicate, string(e.Result), storage.Micros(e.Collected), storage.Micros(e.Expires), r.Event, digest, string(body))
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

// between is the result of a predicate from a time on.
type between struct {
	result     Result
	at, expiry time.Time
}

func (s *Service) history(ctx context.Context, predicate string, since time.Time) ([]between, error) {
	rows, err := s.o.DB.Query(ctx, `SELECT result, collected, expires FROM posture_evidence WHERE predicate = $1 AND expires > $2 ORDER BY collected`, predicate, storage.Micros(since))
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []between
	for rows.Next() {
		var r string
		var at, end int64
		if err := rows.Scan(&r, &at, &end); err != nil {
			return nil, err
		}
		out = append(out, between{Result(r), storage.Time(at), storage.Time(end)})
	}
	return out, rows.Err()
}
