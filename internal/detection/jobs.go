package detection

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/storage"
)

// How long things stay.
const (
	quietFor     = 24 * time.Hour       // a detection that only told and was not seen again
	containWait  = 2 * time.Minute      // for replicas to say that they have cut
	blindFor     = 15 * time.Second     // after which a replica that cannot reach the store has cut everything by itself
	keepUsage    = 40 * 24 * time.Hour  // hours of use, for bills
	keepAgents   = 400 * 24 * time.Hour // what is known of an agent that does not call
	keepOthers   = 2 * 24 * time.Hour   // of credentials and networks; longer than any window over them
	keepRecords  = 400 * 24 * time.Hour // detections that have ended
	sweepEvery   = time.Hour
	tendAtATime  = 100
	sweepAtATime = 2000
)

// tend looks after what is in force: who has cut, and what is over.
func (s *Service) tend(ctx context.Context, f *follower) error {
	now := s.o.Now()
	if now.Sub(f.tended) < tendEvery && !f.tended.After(now) && !f.waits {
		return nil
	}
	if err := s.contain(ctx, f, now); err != nil {
		return err
	}
	if now.Sub(f.tended) < tendEvery && !f.tended.After(now) {
		return nil
	}
	f.tended = now
	over, err := readDetections(ctx, s.db, ` WHERE ended = 0 AND (expires > 0 AND expires <= $1 OR state <> 'active' AND updated <= $2 OR response = 'rotate' AND state = 'active' AND updated <= $2) ORDER BY id LIMIT $3`,
		storage.Micros(now), storage.Micros(now.Add(-quietFor)), tendAtATime)
	if err != nil {
		return err
	}
	if len(over) > 0 {
		if err := s.expire(ctx, over, now); err != nil {
			return err
		}
	}
	if err := s.unlocked(ctx, now); err != nil {
		return err
	}
	if now.Sub(f.swept) < sweepEvery {
		return nil
	}
	f.swept = now
	return s.sweep(ctx, f, now)
}

// expire ends detections whose time is over.
func (s *Service) expire(ctx context.Context, over []Detection, now time.Time) error {
	return s.change(ctx, func(tx *audit.Tx) error {
		for i := range over {
			d := &over[i]
			done, err := endDetection(ctx, tx.Tx, d.ID, Expired, audit.System.Name, "its time was over", now)
			if err != nil {
				return err
			}
			if done {
				d.State = Expired
				tx.Record(detected("detection.expired", d))
			}
		}
		return storage.Bump(ctx, tx.Tx, version)
	})
}

// unlocked ends detections whose lock a person lifted, or whose lock's time is over.
func (s *Service) unlocked(ctx context.Context, now time.Time) error {
	locked, err := readDetections(ctx, s.db, ` WHERE ended = 0 AND state = 'active' AND lock_id <> '' ORDER BY id LIMIT 1000`)
	if err != nil {
		return err
	}
	for i := range locked {
		d := &locked[i]
		if s.stands(d) {
			continue
		}
		st, err := s.o.Locks.State(ctx, d.Lock)
		if err != nil && !errors.Is(err, locks.ErrNotFound) {
			return err
		}
		if err == nil && st.Ended.IsZero() { // the view is older than the lock
			continue
		}
		if d.State = Lifted; !d.Expires.IsZero() && !now.Before(d.Expires) {
			d.State = Expired
		}
		if err := s.change(ctx, func(tx *audit.Tx) error {
			if _, err := endDetection(ctx, tx.Tx, d.ID, d.State, st.EndedBy, st.EndReason, now); err != nil {
				return err
			}
			tx.Record(detected("detection.ended", d))
			return storage.Bump(ctx, tx.Tx, version)
		}); err != nil {
			return err
		}
	}
	return nil
}

// contain measures how long it took, from the event that decided, until the last
// call that a lock covers was cut on every replica.
func (s *Service) contain(ctx context.Context, f *follower, now time.Time) error {
	waiting, err := readDetections(ctx, s.db, ` WHERE ended = 0 AND state = 'active' AND lock_id <> '' AND contained = 0 AND decided > $1 ORDER BY id LIMIT $2`,
		storage.Micros(now.Add(-containWait)), tendAtATime)
	if err != nil {
		return err
	}
	f.waits = len(waiting) > 0
	for i := range waiting {
		d := &waiting[i]
		st, err := s.o.Locks.State(ctx, d.Lock)
		if errors.Is(err, locks.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		cuts, err := s.cutting(ctx, &st)
		if err != nil {
			return err
		}
		if cuts || len(st.Acks) == 0 {
			continue
		}
		if err := s.contained(ctx, d, &st); err != nil {
			return err
		}
	}
	return nil
}

// cutting reports whether a replica is still to say that it has cut. One that is gone
// is not waited for: what it did ended with it, and one that only cannot reach the
// store refuses calls and soon cuts those in flight by itself.
func (s *Service) cutting(ctx context.Context, st *locks.State) (bool, error) {
	if len(st.Silent) == 0 {
		return false, nil
	}
	if s.o.Now().Sub(st.Placed) < blindFor {
		return true, nil
	}
	there, err := s.o.Locks.Replicas(ctx)
	return slices.ContainsFunc(st.Silent, func(r string) bool { return slices.Contains(there, r) }), err
}

// contained notes that every replica has cut what a detection stopped, with what
// passed until then, in its finding too.
func (s *Service) contained(ctx context.Context, d *Detection, st *locks.State) error {
	last := st.Placed
	for _, a := range st.Acks {
		if a.At.After(last) {
			last = a.At
		}
	}
	micros := max(1, last.Sub(d.Happened).Microseconds())
	passed, err := s.passed(ctx, d)
	if err != nil {
		return err
	}
	d.Contained, d.Cut, d.Passed = float64(micros)/1000, int64(st.Cut), &passed
	open, err := s.o.Findings.List(ctx, findings.Query{Status: findings.Open, Rule: d.finding().Rule, Object: d.Object, Limit: 1})
	if err != nil {
		return err
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		ev := event("detection.contained", audit.System, d.Object, "", map[string]any{"detection": d.ID, "rule": d.Rule, "lock": d.Lock, "cut": st.Cut, "passed": passed, "replicas": len(st.Acks), "silent": len(st.Silent), "micros": micros})
		ev.Agent, ev.Credential = d.Agent, d.Credential
		tx.Record(ev)
		if len(open) > 0 { // whoever closed it has seen it
			if err := s.tell(ctx, tx, d); err != nil {
				return err
			}
		}
		return setContained(ctx, tx.Tx, d)
	})
}

// mostPassed bounds how many calls are counted that passed.
const mostPassed = 1000

// passed counts the calls that went out after the event that decided, of what is
// locked now.
func (s *Service) passed(ctx context.Context, d *Detection) (n int64, err error) {
	recs, err := s.log.List(ctx, audit.Query{Agent: d.Agent, Types: []audit.Type{audit.CallIntent}, Since: d.Happened, Oldest: true, Limit: mostPassed})
	for _, r := range recs {
		if r.Event.ID != d.Event && (d.Response == LockAgent || r.Event.Credential == d.Credential) {
			n++
		}
	}
	return n, err
}

// sweep forgets what is old.
func (s *Service) sweep(ctx context.Context, f *follower, now time.Time) error {
	old, err := readStates(ctx, s.db, ` WHERE (kind = 'agent' AND seen < $1 OR kind <> 'agent' AND kind <> 'all' AND seen < $2) LIMIT $3`,
		now.Add(-keepAgents).UnixMicro(), now.Add(-keepOthers).UnixMicro(), sweepAtATime)
	if err != nil {
		return err
	}
	drop := old[:0]
	for _, r := range old {
		for kind, name := range keyNames {
			k := f.engine.keys[kind][r.value]
			if name != r.kind || k != nil && k.seen > r.seen { // it was seen since it was saved
				continue
			}
			delete(f.engine.keys[kind], r.value)
			drop = append(drop, r)
		}
	}
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		for _, r := range drop {
			if err := dropState(ctx, tx, r.kind, r.value); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `DELETE FROM detections WHERE ended > 0 AND ended < $1`, storage.Micros(now.Add(-keepRecords))); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM detection_usage WHERE hour < $1`, now.Add(-keepUsage).Unix()/3600)
		return err
	})
}

// Lift ends the response of a detection. What its rule had counted is forgotten,
// so that the same does not do it again at once. Needs a reason.
func (s *Service) Lift(ctx context.Context, by audit.Actor, reason, det string) (Detection, error) {
	if err := checkReason(reason); err != nil {
		return Detection{}, err
	}
	d, err := s.Get(ctx, det)
	if err != nil {
		return d, err
	}
	if !d.Ended.IsZero() {
		return d, ErrEnded
	}
	if d.Lock != "" {
		if _, err := s.o.Locks.Lift(ctx, by, reason, d.Lock); err != nil && !errors.Is(err, locks.ErrEnded) && !errors.Is(err, locks.ErrNotFound) {
			return d, err
		}
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		done, err := endDetection(ctx, tx.Tx, d.ID, Lifted, by.Name, reason, s.o.Now())
		if err != nil {
			return err
		}
		if !done {
			return ErrEnded
		}
		ev := event("detection.lifted", by, d.Object, reason, map[string]any{"detection": d.ID, "rule": d.Rule, "response": d.Response, "lock": d.Lock})
		ev.Agent, ev.Credential = d.Agent, d.Credential
		tx.Record(ev)
		return storage.Bump(ctx, tx.Tx, version)
	})
	if err != nil {
		return d, err
	}
	return s.Get(ctx, d.ID)
}

// Get returns a detection.
func (s *Service) Get(ctx context.Context, det string) (Detection, error) {
	found, err := readDetections(ctx, s.db, ` WHERE id = $1`, det)
	if err != nil {
		return Detection{}, err
	}
	if len(found) == 0 {
		return Detection{}, ErrNotFound
	}
	return found[0], nil
}

// List returns detections, the newest first: those that are open, or all.
func (s *Service) List(ctx context.Context, all bool, agent string, most int) ([]Detection, error) {
	if most <= 0 {
		most = 100
	}
	return readDetections(ctx, s.db, ` WHERE ($1 OR ended = 0) AND ($2 = '' OR agent = $2) ORDER BY id DESC LIMIT $3`, all, agent, min(most, 1000))
}

// Rebuild forgets what was counted and learned, and counts the log again from
// its beginning. What it finds on the way is not acted upon. Needs a reason.
func (s *Service) Rebuild(ctx context.Context, by audit.Actor, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	return s.change(ctx, func(tx *audit.Tx) error {
		tx.Record(event("detection.rebuilt", by, "detection", reason, nil))
		if err := clearAll(ctx, tx.Tx); err != nil {
			return err
		}
		if err := putSince(ctx, tx.Tx, storage.Micros(s.o.Now()), true); err != nil {
			return err
		}
		return storage.Bump(ctx, tx.Tx, version)
	})
}
