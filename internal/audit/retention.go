package audit

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// How long payloads are kept, in days.
const (
	DefaultRetention = 400
	RetentionFloor   = 183 // shorter needs a reason, and someone must see it
	maxRetention     = 36500
)

const retentionRow = "payloads"

// Retention says how long payloads are kept. Events stay for ever: they are the
// leaves of the log.
type Retention struct {
	Days int
}

// Alert is something that a person must see.
type Alert struct {
	Rule   string // "log.retention_short"
	Object string // "log/retention"
	Title  string
	Detail string
}

// Retention returns how long payloads are kept.
func (l *Log) Retention(ctx context.Context) (r Retention, err error) {
	if err := l.db.QueryRow(ctx, `SELECT days FROM payload_retention WHERE name = $1`, retentionRow).Scan(&r.Days); err != nil {
		return Retention{}, storage.ErrUnavailable.With(err)
	}
	return r, nil
}

// SetRetention changes how long payloads are kept. Less than RetentionFloor
// needs a reason, and alerts.
func (l *Log) SetRetention(ctx context.Context, by Actor, reason string, r Retention) error {
	reason = strings.TrimSpace(reason)
	short := r.Days < RetentionFloor
	switch {
	case r.Days < 1 || r.Days > maxRetention:
		return ErrRetention
	case len(reason) > maxReason:
		return ErrReason
	case short && reason == "":
		return ErrReason.Say("payloads are to be kept for %d days at least; a shorter time needs a reason (--reason)", RetentionFloor)
	}
	err := l.Change(ctx, func(tx *Tx) error {
		if err := l.takeTurn(ctx, tx.Tx); err != nil {
			return err
		}
		if err := tx.ExecOne(ctx, `UPDATE payload_retention SET days = $1 WHERE name = $2`, r.Days, retentionRow); err != nil {
			return err
		}
		tx.Record(Event{Type: "retention.changed", Actor: by, Object: "log/retention", Reason: reason, Detail: fmt.Appendf(nil, `{"days":%d}`, r.Days)})
		if !short || l.o.Alert == nil {
			return nil
		}
		return l.o.Alert(ctx, tx, Alert{
			Rule: "log.retention_short", Object: "log/retention", Title: fmt.Sprintf("Payloads are kept for %d days only", r.Days),
			Detail: fmt.Sprintf("%s set the retention of payloads to %d days; %d are the floor. Reason: %s", by.Name, r.Days, RetentionFloor, reason),
		})
	})
	return unavailable(err)
}

func (l *Log) ensureRetention(ctx context.Context) error {
	return unavailable(l.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO payload_retention (name, days, position, turn) VALUES ($1, $2, '', 0) ON CONFLICT (name) DO NOTHING`, retentionRow, DefaultRetention)
		return err
	}))
}

// expireChunk is how many events lose their payloads in one transaction.
const expireChunk = 200

// maxInVain is how often in a row a look may be overtaken by a change.
const maxInVain = 8

// The rhythm of expiry.
const (
	expireAfter = time.Minute // of the start
	expireEvery = time.Hour
	expireTTL   = 2 * time.Minute // of the lease; a chunk takes far less
)

// oldPayloads is the next part of what is too old.
type oldPayloads struct {
	days     int64
	position string // where the search began
	bound    string // every event before it is too old
	places   []Place
	from, to string
}

// Expire deletes the payloads that are older than the retention and that no
// legal hold covers, in small transactions, each an event, and returns how many.
// The log does so by itself once an hour.
func (l *Log) Expire(ctx context.Context) (int64, error) {
	var total int64
	for inVain := 0; ; {
		began := time.Now()
		old, err := l.old(ctx)
		if err != nil {
			return total, storage.ErrUnavailable.With(err)
		}
		if len(old.places) == 0 {
			return total, unavailable(l.db.Tx(ctx, func(tx *storage.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE payload_retention SET position = $1 WHERE name = $2 AND position = $3`, max(old.position, old.bound), retentionRow, old.position)
				return err
			}))
		}
		n, err := l.expire(ctx, old)
		if err != nil {
			return total, unavailable(err)
		}
		total += n
		if inVain++; n > 0 {
			inVain = 0
		}
		if inVain == maxInVain {
			return total, ErrHeld.Say("retention and legal holds kept changing while payloads were to expire; the next pass goes on")
		}
		if l.db.Dialect() == storage.SQLite {
			l.rest(ctx, 2*time.Since(began)) // leave the one writer to the log
		}
	}
}

func (l *Log) rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// old looks for events that are too old and still have payloads.
func (l *Log) old(ctx context.Context) (oldPayloads, error) {
	var o oldPayloads
	if err := l.db.QueryRow(ctx, `SELECT days, position FROM payload_retention WHERE name = $1`, retentionRow).Scan(&o.days, &o.position); err != nil {
		return o, err
	}
	limit := l.o.Now().Add(-time.Duration(o.days) * 24 * time.Hour)
	o.bound = idBound(limit)
	q, args := `SELECT e.id, e.lane, e.sn FROM events AS e WHERE e.id > $1 AND e.id < $2`, []any{o.position, o.bound}
	holds, err := holdsIn(ctx, l.db, false)
	if err != nil {
		return o, err
	}
	for _, h := range holds {
		cond, more := h.where(len(args) + 1)
		q, args = q+` AND NOT (`+cond+`)`, append(args, more...)
	}
	q += ` AND EXISTS (SELECT 1 FROM payloads AS p WHERE p.lane = e.lane AND p.sn = e.sn AND p.body IS NOT NULL) ORDER BY e.id LIMIT ` + fmt.Sprint(expireChunk)
	rows, err := l.db.Query(ctx, q, args...)
	if err != nil {
		return o, err
	}
	defer rows.Close()
	for rows.Next() {
		var p Place
		if err := rows.Scan(&o.to, &p.Lane, &p.SN); err != nil {
			return o, err
		}
		if o.from == "" {
			o.from = o.to
		}
		o.places = append(o.places, p)
	}
	return o, rows.Err()
}

var errLookAgain = errors.New("the retention or a hold was changed meanwhile")

// expire deletes what old found, unless a hold was placed or the retention was
// changed since: then it deletes nothing, and the next look finds what is true.
func (l *Log) expire(ctx context.Context, old oldPayloads) (n int64, err error) {
	err = l.Change(ctx, func(tx *Tx) error {
		if err := l.beginErasure(ctx, tx.Tx); err != nil {
			return err
		}
		if err := l.stillOld(ctx, tx.Tx, old); err != nil {
			return err
		}
		if n, err = l.deleteBodies(ctx, tx.Tx, old.places); err != nil {
			return err
		}
		if n == 0 {
			return errLookAgain
		}
		detail, err := json.Marshal(expiredDetail{Days: old.days, From: old.from, Payloads: n, To: old.to})
		if err != nil {
			return err
		}
		tx.Record(Event{Type: PayloadExpired, Actor: System, Object: "log/retention", Detail: detail})
		_, err = tx.Exec(ctx, `UPDATE payload_retention SET position = $1 WHERE name = $2`, old.to, retentionRow)
		return err
	})
	if errors.Is(err, errLookAgain) {
		return 0, nil
	}
	return n, err
}

func (l *Log) stillOld(ctx context.Context, tx *storage.Tx, old oldPayloads) error {
	var days int64
	var position string
	if err := tx.QueryRow(ctx, `SELECT days, position FROM payload_retention WHERE name = $1`, retentionRow).Scan(&days, &position); err != nil {
		return err
	}
	if days != old.days || position != old.position {
		return errLookAgain
	}
	holds, err := holdsIn(ctx, tx, false)
	if err != nil {
		return err
	}
	for _, h := range holds {
		cond, args := h.where(3)
		var covered bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM events AS e WHERE e.id >= $1 AND e.id <= $2 AND `+cond+`)`, append([]any{old.from, old.to}, args...)...).Scan(&covered); err != nil {
			return err
		}
		if covered {
			ok, err := l.outside(ctx, tx, h.HoldSpec, old.places)
			if err != nil {
				return err
			}
			if !ok {
				return errLookAgain
			}
		}
	}
	return nil
}

// outside reports whether a hold covers none of the places.
func (l *Log) outside(ctx context.Context, tx *storage.Tx, s HoldSpec, places []Place) (bool, error) {
	var any []string
	for _, p := range places {
		any = append(any, fmt.Sprintf("(e.lane = %d AND e.sn = %d)", p.Lane, p.SN))
	}
	cond, args := s.where(1)
	var covered bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM events AS e WHERE (`+strings.Join(any, " OR ")+`) AND `+cond+`)`, args...).Scan(&covered)
	return !covered, err
}

// retain expires payloads, and encrypts those from before there were keys,
// until the log closes. One replica does it at a time.
func (l *Log) retain() {
	defer l.background.Done()
	lease := job.NewLease(l.db, "retention", expireTTL)
	for wait := expireAfter; ; wait = expireEvery {
		if err := l.retainOnce(l.closing, lease, wait != expireAfter); err != nil && l.closing.Err() == nil {
			l.o.Logger.Warn("payloads could not be expired; the next try is within an hour", "error", err)
		}
		l.rest(l.closing, wait)
		if l.closing.Err() != nil {
			return
		}
	}
}

func (l *Log) retainOnce(ctx context.Context, lease *job.Lease, expire bool) error {
	if ours, err := lease.Acquire(ctx); err != nil || !ours {
		return err
	}
	_, err := l.adopt(ctx)
	if err == nil && expire {
		_, err = l.Expire(ctx)
	}
	return errors.Join(err, lease.Release(context.WithoutCancel(ctx)))
}
