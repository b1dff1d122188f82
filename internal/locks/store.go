package locks

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func readLocks(ctx context.Context, q querier, where string, args ...any) ([]Lock, error) {
	rows, err := q.Query(ctx, `SELECT id, kind, name, reason, placed_by, placed, expires, ended, ended_by, end_reason FROM locks`+where, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []Lock{}
	for rows.Next() {
		var l Lock
		var placed, expires, ended int64
		if err := rows.Scan(&l.ID, &l.Kind, &l.Name, &l.Reason, &l.By, &placed, &expires, &ended, &l.EndedBy, &l.EndReason); err != nil {
			return nil, fmt.Errorf("locks: read a row: %w", err)
		}
		l.Placed, l.Expires, l.Ended = storage.Time(placed), storage.Time(expires), storage.Time(ended)
		out = append(out, l)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func readLock(ctx context.Context, q querier, id string) (Lock, error) {
	found, err := readLocks(ctx, q, ` WHERE id = $1`, id)
	switch {
	case err != nil:
		return Lock{}, err
	case len(found) == 0:
		return Lock{}, ErrNotFound.Say("there is no lock %q", id)
	}
	return found[0], nil
}

func (s *Service) clock() string { return job.Clock(s.db.Dialect()) }

// databaseTime is the time by which replicas agree.
func (s *Service) databaseTime(ctx context.Context, tx *audit.Tx) (t time.Time, err error) {
	var us int64
	if err := tx.QueryRow(ctx, `SELECT `+s.clock()).Scan(&us); err != nil {
		return t, storage.ErrUnavailable.With(err)
	}
	return storage.Time(us), nil
}

func insert(ctx context.Context, tx *audit.Tx, l *Lock, expiresIn time.Duration) error {
	if expiresIn > 0 {
		l.Expires = l.Placed.Add(expiresIn)
	}
	_, err := tx.Exec(ctx, `INSERT INTO locks (id, kind, name, reason, placed_by, placed, expires, ended, ended_by, end_reason) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, '', '')`,
		l.ID, l.Kind, l.Name, l.Reason, l.By, storage.Micros(l.Placed), storage.Micros(l.Expires))
	return err
}

func endLock(ctx context.Context, tx *audit.Tx, l *Lock, by, reason string) error {
	err := tx.ExecOne(ctx, `UPDATE locks SET ended = $1, ended_by = $2, end_reason = $3 WHERE id = $4 AND ended = 0`, storage.Micros(l.Ended), by, reason, l.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrEnded
	}
	l.EndedBy, l.EndReason = by, reason
	return err
}

// Ack says that a replica has cut what a lock covers.
type Ack struct {
	Replica string    `json:"replica"`
	Cut     int       `json:"cut" doc:"calls in flight and leases that were ended there"`
	At      time.Time `json:"at" doc:"when the last of them had ended, by the database's clock"`
}

func readAcks(ctx context.Context, q querier, lock string) ([]Ack, error) {
	rows, err := q.Query(ctx, `SELECT replica, cut, at FROM lock_acks WHERE lock_id = $1 ORDER BY at, replica`, lock)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []Ack{}
	for rows.Next() {
		var a Ack
		var at int64
		if err := rows.Scan(&a.Replica, &a.Cut, &at); err != nil {
			return nil, fmt.Errorf("locks: read a row: %w", err)
		}
		a.At = storage.Time(at)
		out = append(out, a)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// silent returns the replicas that were alive when the lock was placed and have
// not acknowledged it.
func silent(ctx context.Context, q querier, l Lock) ([]string, error) {
	rows, err := q.Query(ctx, `SELECT name FROM replicas WHERE seen >= $1 AND started <= $2
		AND NOT EXISTS (SELECT 1 FROM lock_acks a WHERE a.lock_id = $3 AND a.replica = replicas.name) ORDER BY name`,
		storage.Micros(l.Placed.Add(-aliveFor)), storage.Micros(l.Placed), l.ID)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []string{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("locks: read a row: %w", err)
		}
		out = append(out, name)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}
