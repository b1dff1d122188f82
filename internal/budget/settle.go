package budget

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// settlement is the end of a call's reservation.
type settlement struct {
	call string
	used func(meter string, reserved int64) int64
}

// Settle says how the call ended: what it used stays used, the rest of what was
// reserved is free again. sent says that its request may have reached the
// upstream. It does not wait for the disk.
func (r *Reservation) Settle(o audit.Outcome, sent bool) {
	if r == nil || r.done.Swap(true) {
		return
	}
	p := r.s.Prices()
	r.s.settle(&settlement{r.call, func(meter string, reserved int64) int64 { return used(p, meter, reserved, o, sent) }})
}

// Release says that the call does not go out.
func (r *Reservation) Release() {
	if r == nil || r.done.Swap(true) {
		return
	}
	r.s.settle(&settlement{r.call, func(string, int64) int64 { return 0 }})
}

func (s *Service) settle(x *settlement) {
	select {
	case s.settles <- x:
	case <-s.quit: // found in the log by whoever is there
	}
}

// used is what a call used of what was reserved for it. Where that is not known,
// because an answer was cut off or did not say, all that was reserved counts.
func used(p *Prices, meter string, reserved int64, o audit.Outcome, sent bool) int64 {
	switch {
	case !sent:
		return 0
	case meter == Calls || meter == Effects:
		return reserved
	}
	ended := o.Status == audit.Succeeded || o.Status == audit.Failed
	u := o.Usage
	if u == nil || u.Input < 0 || u.Output < 0 || u.Cached < 0 {
		if u == nil && o.Status == audit.Failed && o.Code >= 400 {
			return 0 // an error instead of an answer
		}
		return reserved
	}
	n := clamp(clamp(u.Input) + clamp(u.Output))
	if meter == Money {
		n = clamp(p.Cost(u.Model, u.Input, u.Cached, u.Output).Amount)
	}
	if !ended {
		return max(n, reserved)
	}
	return n
}

// settling is the desk's second clerk.
func (s *Service) settling() {
	defer s.work.Done()
	for {
		var batch []*settlement
		select {
		case x := <-s.settles:
			batch = append(batch, x)
		case <-s.quit:
			if len(s.settles) == 0 {
				return
			}
			continue
		}
		for more := true; more && len(batch) < mostBatch; {
			select {
			case x := <-s.settles:
				batch = append(batch, x)
			default:
				more = false
			}
		}
		if err := s.settleAll(batch); err != nil {
			s.o.Logger.Warn("calls could not be settled with their budgets; they are when their outcome is found in the log", "calls", len(batch), "error", err)
		}
	}
}

// settleAll settles calls in one transaction. One that was settled before has
// nothing reserved any more: it changes nothing.
func (s *Service) settleAll(batch []*settlement) error {
	ctx, cancel := context.WithTimeout(context.Background(), deskWithin)
	defer cancel()
	slices.SortFunc(batch, func(a, b *settlement) int { return strings.Compare(a.call, b.call) })
	var reached []notice
	err := s.db.Tx(ctx, func(tx *storage.Tx) error {
		reached = nil
		if err := s.unsynced(ctx, tx); err != nil { // lost with the disk, it is settled again
			return err
		}
		sums := map[key][2]int64{} // no more reserved, spent
		for _, x := range batch {
			rows, err := takeReservations(ctx, tx, x.call)
			if err != nil {
				return err
			}
			for _, r := range rows {
				sum := sums[r.key]
				if !r.freed {
					sum[0] += r.amount
				}
				sum[1] += x.used(r.meter, r.amount)
				sums[r.key] = sum
			}
		}
		for _, k := range slices.SortedFunc(maps.Keys(sums), key.compare) {
			spent, told, err := spend(ctx, tx, k, sums[k][0], sums[k][1])
			if err != nil {
				return err
			}
			if b := s.view.Load().byID[k.budget]; b != nil && b.Soft > 0 && spent >= b.Soft && told&toldSoft == 0 {
				reached = append(reached, notice{key: k, budget: b, level: toldSoft, spent: spent})
			}
		}
		return nil
	})
	if err == nil {
		s.tell(reached)
	}
	return err
}

// What people were told of a window, each by itself: which is first is chance.
const (
	toldSoft = 1 // that its soft limit is reached
	toldHard = 2 // that calls are refused
)

// notice is that a limit was reached.
type notice struct {
	key
	budget *Budget
	level  int64
	spent  int64
}

// tell tells people of limits, once for each window, without making a call wait.
// What is lost with this process is told when the limit is met the next time.
func (s *Service) tell(all []notice) {
	for _, n := range all {
		type given struct {
			key
			level int64
		}
		if _, before := s.told.LoadOrStore(given{n.key, n.level}, true); before {
			continue
		}
		s.notices.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), deskWithin)
			defer cancel()
			if err := s.log.Change(ctx, func(tx *audit.Tx) error { return s.tellTx(ctx, tx, n) }); err != nil && !errors.Is(err, errTold) {
				s.told.Delete(given{n.key, n.level})
				s.o.Logger.Warn("nobody could be told of a budget's limit", "budget", n.budget.Name, "error", err)
			}
		})
	}
}

func (s *Service) tellTx(ctx context.Context, tx *audit.Tx, n notice) error {
	res, err := tx.Exec(ctx, `UPDATE budget_windows SET told = told | $4 WHERE budget = $1 AND part = $2 AND start = $3 AND told & $4 = 0`, n.key.budget, n.part, n.start, n.level)
	if err != nil {
		return err
	}
	if rows, err := res.RowsAffected(); err != nil {
		return err
	} else if rows == 0 { // another replica was first
		return errTold
	}
	return s.recordNotice(ctx, tx, n)
}

// sweepTold forgets which notices were given long ago.
func (s *Service) sweepTold() { s.told.Clear() }

// sweepPast removes what is of no use any more.
func (s *Service) sweepPast(ctx context.Context, now time.Time) error {
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM budget_reservations WHERE freed > 0 AND freed < $1`, storage.Micros(now.Add(-freedFor))); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM budget_windows WHERE reserved = 0 AND ends > 0 AND ends < $1`, storage.Micros(now.Add(-windowFor)))
		return err
	})
}
