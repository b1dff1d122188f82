package export

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// The followers' rhythm.
const (
	leaseSlack = 5 * time.Second // what a lease lasts beyond the two requests that a send makes at most
	lookEvery  = 500 * time.Millisecond
	gatherFor  = 100 * time.Millisecond // after an event, wait for its neighbours
	maxDouble  = 6                      // the pause after a failure doubles this often
	maxAfter   = 10 * time.Minute       // a target that asks for a longer pause is asked again by then
)

// How much is read and sent at a time.
const (
	perLane      = 256
	perLaneLarge = 16 // with payloads
	batchRecords = 512
	batchBytes   = 1 << 20 // of events and payloads; a record may be larger
)

// sink is where a follower sends. Its methods are called by one goroutine.
type sink interface {
	// open is called before the first send, and again when this replica takes over.
	open(ctx context.Context) error
	// send delivers records, in order, and returns what to commit with the
	// position. A refusal says that trying again will not help.
	send(ctx context.Context, recs []audit.Record) (delivery, error)
	// idle is called when there is nothing to send.
	idle(ctx context.Context) error
	close()
}

// delivery is what a sink did.
type delivery struct {
	rejected int64                                           // of what was sent, thrown away by the target
	note     string                                          // why
	commit   func(ctx context.Context, tx *storage.Tx) error // nil: nothing
	settle   func()                                          // after the commit; nil: nothing
}

// refusal says that a target will not take what it was sent, however often.
type refusal struct {
	problem string
	content bool // what was sent, not the target as a whole, is the reason
}

func (r *refusal) Error() string { return r.problem }

// later says that a target cannot now.
type later struct {
	problem string
	after   time.Duration // the target asked for this pause; 0: it did not
}

func (l *later) Error() string { return l.problem }

var errMoved = errors.New("the position was moved by another")

// follower sends the log to one target.
type follower struct {
	s     *Service
	t     Target
	lease *job.Lease
	sink  sink
	runs  *job.Follower

	ready    bool  // sink is open, in the hold of epoch
	epoch    int64 // of the lease
	stopped  bool  // blocked until a person says otherwise
	orders   int64 // how often a person did, as last seen
	skip     string
	failures int
	told     bool // someone was told that it fails
	ailing   bool // the database says that it fails
}

func (f *follower) follower() *job.Follower {
	return &job.Follower{Step: f.step, Changed: f.s.log.Changed, Gather: gatherFor, Every: lookEvery, Lease: f.lease,
		Failed: func(ctx context.Context, err error) { f.wait(ctx, f.failed(ctx, err)) },
		Ended: func(context.Context) error {
			f.sink.close()
			return nil
		}}
}

// wait pauses after a failure. A person's order ends it.
func (f *follower) wait(ctx context.Context, d time.Duration) {
	for end := time.Now().Add(d); ctx.Err() == nil && time.Now().Before(end); {
		job.Pause(ctx, min(lookEvery, time.Until(end)))
		if st, err := f.s.store.state(ctx, f.t.Name); err == nil && st.orders != f.orders {
			return
		}
	}
}

// step sends some records and returns how many.
func (f *follower) step(ctx context.Context) (int, error) {
	if ours, err := f.hold(ctx); err != nil || !ours {
		return 0, err
	}
	if wait, err := f.obey(ctx); err != nil || wait {
		return 0, err
	}
	if !f.ready {
		if err := f.sink.open(ctx); err != nil {
			return 0, err
		}
		f.ready = true
	}
	at, err := f.s.store.positions(ctx, f.t.Name)
	if err != nil {
		return 0, err
	}
	limit := perLane
	if f.t.Payloads {
		limit = perLaneLarge
	}
	var recs []audit.Record
	if _, err := f.s.log.Next(ctx, at, limit, f.t.Payloads, func(r audit.Record) error {
		recs = append(recs, r)
		return nil
	}); err != nil {
		return 0, err
	}
	if len(recs) == 0 {
		if err := f.sink.idle(ctx); err != nil {
			return 0, err
		}
		return 0, f.well(ctx)
	}
	for rest := recs; len(rest) > 0; {
		n := batch(rest)
		if err := f.deliver(ctx, at, rest[:n]); err != nil {
			if errors.Is(err, errMoved) || errors.Is(err, job.ErrFenced) {
				return 0, nil
			}
			return 0, err
		}
		rest = rest[n:]
	}
	return len(recs), f.well(ctx)
}

// hold takes or extends the lease.
func (f *follower) hold(ctx context.Context) (bool, error) {
	ours, err := f.lease.Acquire(ctx)
	if err != nil {
		return false, err
	}
	if epoch := f.lease.Epoch(); epoch != f.epoch {
		f.epoch, f.ready, f.stopped = epoch, false, false
	}
	return ours, nil
}

// obey sees whether a person has said something, and reports whether the
// follower is to wait for that. A stopped target is tried once when a process
// begins to follow it: its configuration may be another.
func (f *follower) obey(ctx context.Context) (bool, error) {
	st, err := f.s.store.state(ctx, f.t.Name)
	if err != nil {
		return false, err
	}
	if st.orders != f.orders {
		f.orders, f.stopped, f.failures = st.orders, false, 0
	}
	f.skip, f.told, f.ailing = st.skip, !st.told.IsZero(), !st.failing.IsZero()
	return f.stopped, nil
}

// batch returns how many of recs to send at once.
func batch(recs []audit.Record) int {
	n, bytes := 0, 0
	for n < min(len(recs), batchRecords) && (n == 0 || bytes < batchBytes) {
		bytes += len(recs[n].Raw)
		for _, p := range recs[n].Payloads {
			bytes += len(p)
		}
		n++
	}
	return n
}

// deliver sends recs and stores the position. What is refused for its content
// is sent in halves, down to the event that is to blame: everything before it
// arrives, and the target stops there.
func (f *follower) deliver(ctx context.Context, at audit.Cursor, recs []audit.Record) error {
	send := make([]audit.Record, 0, len(recs))
	for _, r := range recs {
		if f.skip == "" || r.Event.ID != f.skip {
			send = append(send, r)
		}
	}
	var d delivery
	if len(send) > 0 {
		if ours, err := f.hold(ctx); err != nil || !ours {
			return errors.Join(err, errMoved)
		}
		var err error
		d, err = f.sink.send(ctx, send)
		var no *refusal
		if errors.As(err, &no) && no.content {
			if len(recs) == 1 {
				return &blocked{recs[0].Event.ID, no}
			}
			half := len(recs) / 2
			if err := f.deliver(ctx, at, recs[:half]); err != nil {
				return err
			}
			return f.deliver(ctx, at, recs[half:])
		}
		if err != nil {
			return err
		}
	}
	return f.commit(ctx, at, recs, int64(len(recs)-len(send)), d)
}

// blocked is a refusal that names the event.
type blocked struct {
	event string
	*refusal
}

func (f *follower) commit(ctx context.Context, at audit.Cursor, recs []audit.Record, skipped int64, d delivery) error {
	to := audit.Cursor{}
	for _, r := range recs {
		to[r.Lane] = r.SN
	}
	// A delivery that cannot be counted is made again, so it is worth a moment.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := f.s.db.Tx(ctx, func(tx *storage.Tx) error {
		if err := f.lease.Check(ctx, tx); err != nil {
			return err
		}
		for lane, sn := range to {
			moved, err := f.s.store.advance(ctx, tx, f.t.Name, lane, at[lane], sn)
			if err != nil {
				return err
			}
			if !moved {
				return errMoved
			}
		}
		if d.commit != nil {
			if err := d.commit(ctx, tx); err != nil {
				return err
			}
		}
		return f.s.store.delivered(ctx, tx, f.t.Name, int64(len(recs))-skipped, d.rejected, skipped, d.note, f.s.o.Now())
	})
	if err != nil {
		f.ready = false // what is in the sink's memory may be ahead of the database
		return err
	}
	if d.settle != nil {
		d.settle()
	}
	for lane, sn := range to {
		at[lane] = sn
	}
	f.failures = 0
	return f.rejected(ctx, d, recs)
}

// rejected tells someone that a target threw events away.
func (f *follower) rejected(ctx context.Context, d delivery, recs []audit.Record) error {
	if d.rejected == 0 || f.s.o.Alert == nil {
		return nil
	}
	a := Alert{Rule: "export.rejected", Object: "export/" + f.t.Name, Title: "An export target throws events away",
		Detail: fmt.Sprintf("%s took a batch and threw %d of it away (%s). The batch was events %s to %s; the log still has them.",
			f.t.Name, d.rejected, orElse(d.note, "it does not say why"), recs[0].Event.ID, recs[len(recs)-1].Event.ID)}
	return f.s.log.Change(ctx, func(tx *audit.Tx) error { return f.s.o.Alert(ctx, tx, a) })
}

// failed notes a failure and returns how long to wait.
func (f *follower) failed(ctx context.Context, err error) time.Duration {
	f.failures++
	d := f.s.o.Backoff << min(f.failures-1, maxDouble)
	d = d/2 + rand.N(d/2+1) // replicas and targets must not march in step
	var wait *later
	if errors.As(err, &wait) && wait.after > 0 {
		d = max(d, min(wait.after, maxAfter))
	}
	at := ""
	var stop *blocked
	var no *refusal
	switch {
	case errors.As(err, &stop):
		at = stop.event
	case errors.As(err, &no):
		at = everything
	}
	problem := text(f.s.o.Redact([]byte(f.t.hide(oneLine(err.Error())))), 500)
	f.s.o.Logger.Warn("the log does not reach an export target", "target", f.t.Name, "blocked_at", at, "error", problem)
	if at != "" {
		f.stopped = true
	}
	now := f.s.o.Now()
	if err := f.s.store.failed(ctx, f.t.Name, problem, at, now); err != nil {
		return d
	}
	if err := f.tell(ctx, problem, at, now); err != nil && ctx.Err() == nil {
		f.s.o.Logger.Warn("a finding about an export target could not be recorded", "target", f.t.Name, "error", err)
	}
	return d
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// tell opens a finding about a target that has stopped, or failed for long.
func (f *follower) tell(ctx context.Context, problem, at string, now time.Time) error {
	st, err := f.s.store.state(ctx, f.t.Name)
	if err != nil || f.s.o.Alert == nil || !st.told.IsZero() {
		return err
	}
	if at == "" && now.Sub(st.failing) < f.s.o.AlertAfter {
		return nil
	}
	todo := "It is tried again until it works; nothing is lost meanwhile."
	if at != "" {
		todo = "It stopped at " + at + ": " + help(f.t.Name, at) + "."
	}
	a := Alert{Rule: "export.failing", Object: "export/" + f.t.Name, Title: "The log does not reach an export target",
		Detail: fmt.Sprintf("%s (%s) since %s: %s. %s", f.t.Name, f.t.destination(), st.failing.UTC().Format(time.RFC3339), problem, todo)}
	return f.note(ctx, now, a)
}

// well takes back that a target fails, and closes the finding about it.
func (f *follower) well(ctx context.Context) error {
	if f.ailing {
		if err := f.s.store.well(ctx, f.t.Name); err != nil {
			return err
		}
		f.ailing, f.failures = false, 0
	}
	if !f.told || f.s.o.Alert == nil {
		return nil
	}
	f.told = false
	return f.note(ctx, time.Time{}, Alert{Rule: "export.failing", Object: "export/" + f.t.Name, Over: true, Detail: "the log reaches it again"})
}

func (f *follower) note(ctx context.Context, at time.Time, a Alert) error {
	return f.s.log.Change(ctx, func(tx *audit.Tx) error {
		changed, err := f.s.store.tell(ctx, tx.Tx, f.t.Name, at)
		if err != nil || !changed {
			return err
		}
		tx.Record(event(map[bool]audit.Type{false: "export.stopped", true: "export.recovered"}[a.Over], audit.System, f.t.Name, "", map[string]string{"problem": a.Detail}))
		return f.s.o.Alert(ctx, tx, a)
	})
}
