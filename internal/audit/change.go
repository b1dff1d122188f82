package audit

import (
	"context"
	"fmt"

	"github.com/countersign/countersign/internal/storage"
)

// Tx is a transaction that carries a change and the events that record it.
type Tx struct {
	*storage.Tx
	log     *Log
	entries []*entry
	finally []func() error
	err     error
}

// Finally has fn look at the change when everything else of it is done, before its
// commit. What fn refuses is not changed.
func (tx *Tx) Finally(fn func() error) { tx.finally = append(tx.finally, fn) }

// Finish calls what Finally was given so far, each once. Change does it by itself;
// who tries a change to undo it calls it first.
func (tx *Tx) Finish() error {
	for len(tx.finally) > 0 {
		fn := tx.finally[0]
		tx.finally = tx.finally[1:]
		if err := fn(); err != nil {
			return err
		}
	}
	return nil
}

// Record adds an event to the transaction. An event that cannot be recorded
// fails the whole change.
func (tx *Tx) Record(ev Event, p ...Payload) {
	err := plainType(ev.Type)
	var e *entry
	if err == nil {
		e, err = tx.log.prepare(ev, p)
	}
	if err != nil {
		if tx.err == nil {
			tx.err = err
		}
		return
	}
	tx.entries = append(tx.entries, e)
}

// Recorded returns the events that were recorded so far, redacted as they will
// be in the log. They must not be changed.
func (tx *Tx) Recorded() []Event {
	out := make([]Event, len(tx.entries))
	for i, e := range tx.entries {
		out[i] = e.ev
	}
	return out
}

// Change runs fn in one transaction and commits what it wrote together with
// the events that it recorded, or neither. fn may run more than once, so it
// must have no effect outside the transaction, and it must not append to the
// log except through tx. If fn wrote and recorded nothing, ErrUnrecorded.
func (l *Log) Change(ctx context.Context, fn func(tx *Tx) error) error {
	l.gate.RLock()
	if l.closing.Err() != nil {
		l.gate.RUnlock()
		return ErrClosed
	}
	l.background.Add(1) // Close waits for it
	l.gate.RUnlock()
	defer l.background.Done()
	err := l.db.Tx(ctx, func(stx *storage.Tx) error {
		tx := &Tx{Tx: stx, log: l}
		if err := fn(tx); err != nil {
			return err
		}
		if err := tx.Finish(); err != nil {
			return err
		}
		if tx.err != nil {
			return tx.err
		}
		if len(tx.entries) == 0 {
			if stx.Writes() > 0 {
				return ErrUnrecorded
			}
			return nil
		}
		return l.chainChange(ctx, tx)
	})
	if err == nil {
		l.wake.all()
	}
	return err
}

// chainChange appends the transaction's events to the change lane. Its row is
// locked by the first statement until the commit, so changes of all replicas
// follow each other.
func (l *Log) chainChange(ctx context.Context, tx *Tx) error {
	n := int64(len(tx.entries))
	var sn int64
	var prev []byte
	if err := tx.QueryRow(ctx, `UPDATE lanes SET sn = sn + $1, clean_sn = sn + $1 WHERE lane = $2 RETURNING sn, chain`, n, changeLane).Scan(&sn, &prev); err != nil {
		return fmt.Errorf("lock the change lane: %w", err)
	}
	if len(prev) != len(Hash{}) {
		return ErrBroken.Say("lane %d of the log has a head without a chain", changeLane)
	}
	chain := Hash(prev)
	for i, e := range tx.entries {
		at := sn - n + int64(i) + 1
		chain = ChainHash(chain, changeLane, at, e.leaf)
		ev := &e.ev
		if _, err := tx.Exec(ctx, `INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			changeLane, at, ev.ID, string(ev.Type), ev.Call, ev.Run, ev.Agent, storage.Micros(ev.Time), chain[:], e.record); err != nil {
			return fmt.Errorf("record a change: %w", err)
		}
		for j := range e.payloads {
			p := &e.payloads[j]
			k, err := tx.log.keys.getTx(ctx, tx.Tx, p.owner)
			if err != nil {
				return fmt.Errorf("record a change: %w", err)
			}
			p.lock(k, ev.ID)
			if _, err := tx.Exec(ctx, `INSERT INTO payloads (lane, sn, n, name, key, body) VALUES ($1, $2, $3, $4, $5, $6)`,
				changeLane, at, j, p.name, p.key, p.buf); err != nil {
				return fmt.Errorf("record a change: %w", err)
			}
		}
	}
	_, err := tx.Exec(ctx, `UPDATE lanes SET chain = $1 WHERE lane = $2`, chain[:], changeLane)
	return err
}
