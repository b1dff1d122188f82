package job

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/storage"
)

// ErrFenced says that a lease has gone to another holder.
var ErrFenced = fault.New(fault.Conflict, "lease_lost", "another replica has taken over this work")

// Clock returns the SQL expression of the database's time in microseconds
// since 1970. Leases are compared by it, because replicas' clocks may disagree.
func Clock(d storage.Dialect) string {
	if d == storage.Postgres {
		return `(extract(epoch from clock_timestamp()) * 1000000)::bigint`
	}
	return `CAST(unixepoch('subsec') * 1000000 AS INTEGER)`
}

// Holder returns a name for this process that no other has, for people to
// recognise.
func Holder(name string) string {
	if name == "" {
		name, _ = os.Hostname() // for people; the random part makes it unique
	}
	return name + "/" + rand.Text()[:12]
}

// Lease is the right to do something that one replica does at a time. It is
// safe for concurrent use.
type Lease struct {
	db           *storage.DB
	name, holder string
	ttl          time.Duration

	mu    sync.Mutex
	epoch int64 // 0 while not held
}

// NewLease returns the lease called name, not held. Every lease value is a
// holder of its own. ttl is how long a hold lasts without Acquire.
func NewLease(db *storage.DB, name string, ttl time.Duration) *Lease {
	return &Lease{db: db, name: name, holder: Holder(""), ttl: ttl}
}

// ReplicaLease is NewLease for work of which nothing but another replica keeps
// us. On SQLite there is one process: the lease is nil, and a nil Lease is held
// always.
func ReplicaLease(db *storage.DB, name string, ttl time.Duration) *Lease {
	if db.Dialect() == storage.SQLite {
		return nil
	}
	return NewLease(db, name, ttl)
}

// Acquire takes the lease if it is free or expired, or extends it if it is
// ours, and reports whether it is ours now. Call it again well within the ttl.
// A lease that ends later than any hold can was taken before the database's
// clock jumped back: it counts as expired, or nobody could take it for as long
// as the jump. If its holder lives it is fenced, as after any expiry.
func (l *Lease) Acquire(ctx context.Context) (bool, error) {
	if l == nil {
		return true, nil
	}
	now := Clock(l.db.Dialect())
	var epoch int64
	err := l.db.Tx(ctx, func(tx *storage.Tx) error {
		return tx.QueryRow(ctx, `INSERT INTO leases (name, holder, epoch, until) VALUES ($1, $2, 1, `+now+` + $3)
			ON CONFLICT (name) DO UPDATE SET holder = $2, until = `+now+` + $3,
				epoch = leases.epoch + CASE WHEN leases.holder = $2 THEN 0 ELSE 1 END
			WHERE leases.holder = $2 OR leases.until < `+now+` OR leases.until > `+now+` + 2 * $3
			RETURNING epoch`, l.name, l.holder, l.ttl.Microseconds()).Scan(&epoch)
	})
	if err != nil && !storage.NoRows(err) {
		return false, storage.ErrUnavailable.With(err)
	}
	l.mu.Lock()
	l.epoch = epoch
	l.mu.Unlock()
	return epoch > 0, nil
}

// Seize takes the lease from whoever holds it, whose work is fenced from then
// on. It is for those who know otherwise that the holder is gone.
func (l *Lease) Seize(ctx context.Context) error {
	now := Clock(l.db.Dialect())
	var epoch int64
	err := l.db.Tx(ctx, func(tx *storage.Tx) error {
		return tx.QueryRow(ctx, `INSERT INTO leases (name, holder, epoch, until) VALUES ($1, $2, 1, `+now+` + $3)
			ON CONFLICT (name) DO UPDATE SET holder = $2, until = `+now+` + $3, epoch = leases.epoch + 1
			RETURNING epoch`, l.name, l.holder, l.ttl.Microseconds()).Scan(&epoch)
	})
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	l.mu.Lock()
	l.epoch = epoch
	l.mu.Unlock()
	return nil
}

// Renew extends the lease. ErrFenced if it is not ours.
func (l *Lease) Renew(ctx context.Context) error {
	return l.db.Tx(ctx, func(tx *storage.Tx) error { return l.Check(ctx, tx) })
}

// Check extends the lease inside a transaction, which so commits only if the
// lease is ours until then. ErrFenced if it is not.
func (l *Lease) Check(ctx context.Context, tx *storage.Tx) error {
	if l == nil {
		return nil
	}
	epoch := l.Epoch()
	if epoch == 0 {
		return ErrFenced
	}
	err := tx.ExecOne(ctx, `UPDATE leases SET until = `+Clock(l.db.Dialect())+` + $1 WHERE name = $2 AND holder = $3 AND epoch = $4`,
		l.ttl.Microseconds(), l.name, l.holder, epoch)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrFenced
	}
	return err
}

// Epoch returns the number of the hold, larger than that of every hold before
// it; 0 while the lease is not held, and of a nil Lease.
func (l *Lease) Epoch() int64 {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// Release gives the lease up, so that another need not wait for it to expire.
// Releasing what is not held does nothing.
func (l *Lease) Release(ctx context.Context) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	epoch := l.epoch
	l.epoch = 0
	l.mu.Unlock()
	if epoch == 0 {
		return nil
	}
	return l.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE leases SET until = 0, holder = '' WHERE name = $1 AND holder = $2 AND epoch = $3`, l.name, l.holder, epoch)
		return err
	})
}
