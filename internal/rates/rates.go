package rates

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// sweepEvery is how often what limits nothing any more is removed.
const sweepEvery = time.Minute

// Rate allows Calls at once, and then one each Per/Calls. The zero Rate limits
// nothing.
type Rate struct {
	Calls int64
	Per   time.Duration
}

// Use is one more of what a rate allows. Uses of one Key share one allowance.
type Use struct {
	Key string
	Rate
}

// Service counts. It is safe for concurrent use.
type Service struct {
	db     *storage.DB
	now    func() time.Time // nil: the database's clock
	logger *slog.Logger
	swept  atomic.Int64 // microseconds since 1970
}

// New returns a Service. now is the database's clock if nil.
func New(db *storage.DB, now func() time.Time, logger *slog.Logger) *Service {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Service{db: db, now: now, logger: logger}
}

// errUsedUp takes back what a refused use counted.
var errUsedUp = errors.New("a rate is used up")

// Take counts uses, all or none. It returns how long to wait if one of the rates is
// used up; then none of them counts, unless it happens in any case (sure). Whoever
// takes several names them in one order everywhere, so that replicas do not lock each
// other out. The error is that the store cannot be reached.
func (s *Service) Take(ctx context.Context, sure bool, uses ...Use) (retry time.Duration, err error) {
	var now time.Time
	err = s.db.Tx(ctx, func(tx *storage.Tx) (err error) {
		retry = 0
		if now, err = s.clock(ctx, tx); err != nil {
			return err
		}
		for _, u := range uses {
			if u.Calls == 0 {
				continue
			}
			wait, err := take(ctx, tx, u, now)
			if err != nil {
				return err
			}
			retry = max(retry, wait)
		}
		if retry > 0 && !sure {
			return errUsedUp
		}
		return nil
	})
	if err != nil && !errors.Is(err, errUsedUp) {
		return 0, storage.ErrUnavailable.With(err)
	}
	s.sweep(ctx, now)
	return retry, nil
}

// clock is the time by which allowances come back.
func (s *Service) clock(ctx context.Context, tx *storage.Tx) (time.Time, error) {
	if s.now != nil {
		return s.now(), nil
	}
	var us int64
	err := tx.QueryRow(ctx, `SELECT `+job.Clock(s.db.Dialect())).Scan(&us)
	return storage.Time(us), err
}

// take counts one use: whole is when the allowance would be whole again if
// nothing came. A use moves it by one share, and must not move it further than a
// period ahead, unless it happens in any case.
func take(ctx context.Context, tx *storage.Tx, u Use, now time.Time) (wait time.Duration, err error) {
	share, at := max(1, u.Per.Microseconds()/u.Calls), storage.Micros(now)
	var whole int64
	err = tx.QueryRow(ctx, `INSERT INTO tool_rates (id, whole) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE
		SET whole = CASE WHEN tool_rates.whole < $3 THEN $2 ELSE tool_rates.whole + $4 END RETURNING whole`, u.Key, at+share, at, share).Scan(&whole)
	if over := whole - at - u.Per.Microseconds(); err == nil && over > 0 {
		return time.Duration(over) * time.Microsecond, nil
	}
	return 0, err
}

// sweep removes, once in a while, what limits nothing any more.
func (s *Service) sweep(ctx context.Context, now time.Time) {
	at, last := storage.Micros(now), s.swept.Load()
	if at-last < sweepEvery.Microseconds() && at >= last || !s.swept.CompareAndSwap(last, at) {
		return
	}
	if err := s.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM tool_rates WHERE whole < $1`, at)
		return err
	}); err != nil {
		s.logger.Warn("rates that limit nothing any more could not be removed", "error", err)
	}
}
