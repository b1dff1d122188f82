package selfaudit

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

const row = "log"

// position returns where the background goes on.
func (s *Service) position(ctx context.Context) (p Position, err error) {
	err = s.db.QueryRow(ctx, `SELECT part, lane, at FROM self_audit WHERE name = $1`, row).Scan(&p.Part, &p.Lane, &p.At)
	if storage.NoRows(err) {
		return Position{}, nil
	}
	if err != nil {
		return Position{}, storage.ErrUnavailable.With(err)
	}
	return p, nil
}

// move stores that a slice was looked at.
func (s *Service) move(ctx context.Context, tx *storage.Tx, r Result) error {
	rounds := 0
	if r.Done {
		rounds = 1
	}
	_, err := tx.Exec(ctx, `INSERT INTO self_audit (name, part, lane, at, rounds, problems, ran) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (name) DO UPDATE SET part = $2, lane = $3, at = $4, rounds = self_audit.rounds + $5, problems = self_audit.problems + $6, ran = $7`,
		row, r.Next.Part, r.Next.Lane, r.Next.At, rounds, len(r.Problems), storage.Micros(s.o.Now()))
	return err
}

// Status says how the background goes.
type Status struct {
	Position
	Rounds   int64     // how often the whole was seen
	Problems int64     // found so far, all rounds together
	Ran      time.Time // the last slice; zero if there was none
}

// Status returns how the background goes.
func (s *Service) Status(ctx context.Context) (st Status, err error) {
	var ran int64
	err = s.db.QueryRow(ctx, `SELECT part, lane, at, rounds, problems, ran FROM self_audit WHERE name = $1`, row).Scan(&st.Part, &st.Lane, &st.At, &st.Rounds, &st.Problems, &ran)
	if storage.NoRows(err) {
		return Status{}, nil
	}
	if err != nil {
		return Status{}, storage.ErrUnavailable.With(err)
	}
	st.Ran = storage.Time(ran)
	return st, nil
}
