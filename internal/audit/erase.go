package audit

import (
	"context"
	"encoding/json/v2"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

// Erasure says what is erased: all about a subject, all of an agent, or all of
// a run. Exactly one is set.
type Erasure struct {
	Subject, Agent, Run string
}

// Erased says what an erasure did.
type Erased struct {
	Event    string // the first event that records it; one more per thousand bodies
	Keys     int64  // destroyed
	Payloads int64  // made unreadable
}

// Place is where a record stands.
type Place struct{ Lane, SN int64 }

// eraseChunk is how many records one transaction takes bodies from, or the
// words of bodies: SQLite has one writer, which the log must not miss for long.
const eraseChunk = 1000

// maxReason bounds the reason for what a person does, in bytes.
const maxReason = 1000

// OnForget registers fn, which removes in tx whatever was derived from the
// payloads beside these records. Register before anything is erased.
func (l *Log) OnForget(fn func(ctx context.Context, tx *storage.Tx, places []Place) error) {
	l.forgetMu.Lock()
	defer l.forgetMu.Unlock()
	l.onForget = append(l.onForget, fn)
}

func (l *Log) forgetDerived(ctx context.Context, tx *storage.Tx, places []Place) error {
	l.forgetMu.Lock()
	fns := l.onForget
	l.forgetMu.Unlock()
	for _, fn := range fns {
		if err := fn(ctx, tx, places); err != nil {
			return err
		}
	}
	return nil
}

// Erase makes payloads unreadable for ever: it destroys the key of a subject or
// agent, and deletes bodies that stand under other keys. Events and their
// commitments stay, so the log verifies as before. It is an event, which names
// keys rather than the subject. ErrHeld if a legal hold covers any of it,
// ErrNothing if there is nothing to erase.
//
// What is recorded about the same subject or agent in the same moment may be
// lost with the key; what comes later gets a new one. Copies of the database
// made before still hold key and payloads.
func (l *Log) Erase(ctx context.Context, by Actor, reason string, what Erasure) (Erased, error) {
	e := eraser{log: l, by: by, reason: strings.TrimSpace(reason), what: what}
	if err := e.check(); err != nil {
		return Erased{}, err
	}
	if err := e.clearDerived(ctx); err != nil {
		return Erased{}, unavailable(err)
	}
	for first := true; ; first = false {
		places, err := e.next(ctx)
		if err != nil {
			return e.done, err
		}
		if !first && len(places) == 0 {
			break
		}
		if err := e.change(ctx, places); err != nil {
			return e.done, unavailable(err)
		}
	}
	l.keys.forget()
	l.scrub(ctx)
	return e.done, nil
}

func checkReason(reason string) error {
	if reason == "" || len(reason) > maxReason {
		return ErrReason
	}
	return nil
}

type eraser struct {
	log    *Log
	by     Actor
	reason string
	what   Erasure
	owner  owner // of the key that is destroyed; kind "" if none
	after  string
	done   Erased
}

func (e *eraser) check() error {
	w := &e.what
	w.Subject, w.Agent, w.Run = strings.TrimSpace(w.Subject), clean(w.Agent), clean(w.Run)
	set := 0
	for _, s := range []string{w.Subject, w.Agent, w.Run} {
		if s != "" {
			set++
		}
	}
	if set != 1 {
		return ErrErasure
	}
	if w.Run == "" {
		e.owner = e.log.keys.owner(w.Agent, w.Subject)
	}
	return checkReason(e.reason)
}

// clearDerived removes what was derived from payloads under the key before the
// key goes, in short transactions, so that little is left for the long one.
func (e *eraser) clearDerived(ctx context.Context) error {
	keys, err := e.keys(ctx, e.log.db)
	if err != nil || len(keys) == 0 {
		return err
	}
	if err := e.held(ctx, e.log.db); err != nil {
		return err
	}
	for _, k := range keys {
		for at := (Place{-1, 0}); ; {
			places, err := placesOf(ctx, e.log.db, k, at)
			if err != nil || len(places) == 0 {
				if err != nil {
					return err
				}
				break
			}
			if err := e.log.db.Tx(ctx, func(tx *storage.Tx) error { return e.log.forgetDerived(ctx, tx, places) }); err != nil {
				return err
			}
			at = places[len(places)-1]
		}
	}
	return nil
}

// keys returns the live keys to destroy.
func (e *eraser) keys(ctx context.Context, db querier) ([]int64, error) {
	if e.owner.kind == "" {
		return nil, nil
	}
	rows, err := db.Query(ctx, `SELECT id FROM payload_keys WHERE kind = $1 AND name = $2 AND destroyed = 0`, e.owner.kind, e.owner.name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var keys []int64
	for rows.Next() {
		var k int64
		if err := rows.Scan(&k); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, rows.Err()
}

// placesOf returns the next records after at with payloads under a key.
func placesOf(ctx context.Context, db querier, key int64, at Place) ([]Place, error) {
	rows, err := db.Query(ctx, `SELECT DISTINCT lane, sn FROM payloads WHERE key = $1 AND (lane, sn) > ($2, $3) ORDER BY lane, sn LIMIT $4`, key, at.Lane, at.SN, eraseChunk)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var places []Place
	for rows.Next() {
		var p Place
		if err := rows.Scan(&p.Lane, &p.SN); err != nil {
			return nil, err
		}
		places = append(places, p)
	}
	return places, rows.Err()
}

// next returns the next records whose bodies must be deleted, because their key
// stays or there is none.
func (e *eraser) next(ctx context.Context) ([]Place, error) {
	cond, arg := `e.run <> '' AND e.run = $1`, e.what.Run
	switch {
	case e.what.Subject != "":
		return nil, nil
	case e.what.Agent != "":
		cond, arg = `e.agent = $1`, e.what.Agent
	}
	rows, err := e.log.db.Query(ctx, `SELECT e.id, e.lane, e.sn FROM events AS e WHERE `+cond+` AND e.id > $2 AND EXISTS (
		SELECT 1 FROM payloads AS p LEFT JOIN payload_keys AS k ON k.id = p.key
		WHERE p.lane = e.lane AND p.sn = e.sn AND p.body IS NOT NULL AND (p.key = 0 OR (k.kind = $3 AND k.destroyed = 0) OR $4 <> '')) ORDER BY e.id LIMIT $5`,
		arg, e.after, kindSubject, e.what.Run, eraseChunk)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var places []Place
	for rows.Next() {
		var p Place
		if err := rows.Scan(&e.after, &p.Lane, &p.SN); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		places = append(places, p)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return places, nil
}

// change destroys the keys that are left, deletes the bodies of places, and
// records both.
func (e *eraser) change(ctx context.Context, places []Place) error {
	var keys []int64
	var payloads int64
	var ev Event
	err := e.log.Change(ctx, func(tx *Tx) error {
		if err := e.log.beginErasure(ctx, tx.Tx); err != nil {
			return err
		}
		if err := e.held(ctx, tx.Tx); err != nil {
			return err
		}
		var err error
		if keys, err = e.keys(ctx, tx.Tx); err != nil {
			return err
		}
		if payloads, err = e.log.deleteBodies(ctx, tx.Tx, places); err != nil {
			return err
		}
		for _, k := range keys {
			n, err := e.destroy(ctx, tx.Tx, k)
			if err != nil {
				return err
			}
			payloads += n
		}
		if len(keys) == 0 && payloads == 0 {
			return ErrNothing
		}
		ev, err = e.event(keys, payloads)
		tx.Record(ev)
		return err
	})
	if errors.Is(err, ErrNothing) && e.done.Event != "" {
		return nil // the rest went elsewhere meanwhile
	}
	if err != nil {
		return err
	}
	if e.done.Event == "" {
		e.done.Event = ev.ID
	}
	e.done.Keys += int64(len(keys))
	e.done.Payloads += payloads
	return nil
}

func (e *eraser) event(keys []int64, payloads int64) (Event, error) {
	d := erasedDetail{Payloads: payloads}
	ev := Event{ID: newEventID(e.log.o.Now()), Type: PayloadErased, Actor: e.by, Reason: e.reason, Agent: e.what.Agent, Run: e.what.Run}
	for _, k := range keys {
		d.Keys = append(d.Keys, strconv.FormatInt(k, 16))
	}
	switch {
	case e.what.Agent != "":
		ev.Object = "agent/" + e.what.Agent
	case e.what.Run != "":
		ev.Object = "run/" + e.what.Run
	default:
		ev.Object = "subject/" + strings.Join(d.Keys, ",") // its name is forgotten
	}
	var err error
	ev.Detail, err = json.Marshal(d)
	return ev, err
}

// destroy destroys a key and returns how many payloads it made unreadable.
func (e *eraser) destroy(ctx context.Context, tx *storage.Tx, key int64) (n int64, err error) {
	if err := tx.QueryRow(ctx, `SELECT count(*) FROM payloads WHERE key = $1 AND body IS NOT NULL`, key).Scan(&n); err != nil {
		return 0, err
	}
	for at := (Place{-1, 0}); ; {
		places, err := placesOf(ctx, tx, key, at)
		if err != nil {
			return 0, err
		}
		if len(places) == 0 {
			break
		}
		if err := e.log.forgetDerived(ctx, tx, places); err != nil {
			return 0, err
		}
		at = places[len(places)-1]
	}
	return n, tx.ExecOne(ctx, `UPDATE payload_keys SET sealed = NULL, destroyed = $1, name = CASE WHEN kind = $2 THEN '' ELSE name END WHERE id = $3 AND destroyed = 0`,
		max(1, storage.Micros(e.log.o.Now())), kindSubject, key)
}

// beginErasure takes the turn of those who hold, release, erase or expire, and
// tells everybody who has read payloads that they may be gone.
func (l *Log) beginErasure(ctx context.Context, tx *storage.Tx) error {
	if err := l.takeTurn(ctx, tx); err != nil {
		return err
	}
	if err := l.overwrite(ctx, tx); err != nil {
		return err
	}
	return storage.Bump(ctx, tx, erasures)
}

// overwrite makes SQLite overwrite what is deleted.
func (l *Log) overwrite(ctx context.Context, tx *storage.Tx) error {
	if l.db.Dialect() != storage.SQLite {
		return nil
	}
	var on int
	return tx.QueryRow(ctx, `PRAGMA secure_delete = ON`).Scan(&on)
}

// deleteBodies deletes the bodies beside records and returns how many.
func (l *Log) deleteBodies(ctx context.Context, tx *storage.Tx, places []Place) (int64, error) {
	if len(places) == 0 {
		return 0, nil
	}
	byLane := map[int64][]string{}
	for _, p := range places {
		byLane[p.Lane] = append(byLane[p.Lane], strconv.FormatInt(p.SN, 10))
	}
	var total int64
	for lane, sns := range byLane {
		res, err := tx.Exec(ctx, `UPDATE payloads SET salt = NULL, body = NULL WHERE lane = $1 AND body IS NOT NULL AND sn IN (`+strings.Join(sns, ", ")+`)`, lane)
		if err != nil {
			return 0, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, l.forgetDerived(ctx, tx, places)
}

// scrub makes what was deleted leave the files too, as far as the engine can
// tell at once: on SQLite the write-ahead log, on PostgreSQL the old versions of
// keys. Old versions of bodies go there with the next vacuum of payloads.
func (l *Log) scrub(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	var err error
	if l.db.Dialect() == storage.Postgres {
		_, err = l.db.Writer().ExecContext(ctx, `VACUUM payload_keys`)
	} else {
		err = l.db.Flush(ctx)
	}
	if err != nil {
		l.o.Logger.Warn("what was erased is gone from the database but still in the engine's own log; it goes with the next checkpoint or vacuum", "error", err)
	}
}
