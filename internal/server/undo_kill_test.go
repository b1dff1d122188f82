package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// sagaPlace is a moment on the way of a step that undoes a call.
type sagaPlace struct {
	deadPlace
	blind bool   // no read tells whether it was undone
	ends  string // how the step stands in the end
	short bool   // it is in the short form
}

// stepTo is a place at a change of a step's state, or at its undo's.
func stepTo(table, state string, committed bool) deadPlace {
	p := deadPlace{name: "before it is " + state, postgres: stop{sql: "UPDATE " + table + " SET state", args: state, commit: true, after: committed}, sqlite: table + " UPDATE NEW.state = '" + state + "'", when: "within"}
	if committed {
		p.name, p.when = state+", not known", "committed"
	}
	return p
}

// recorded is a place at an event of a call.
func recorded(kind string, committed bool) deadPlace {
	p := deadPlace{name: "before " + kind, postgres: stop{sql: "INSERT INTO events", args: kind, after: committed}, sqlite: "events INSERT NEW.type = '" + kind + "'", when: "within"}
	if committed {
		p.name, p.when = kind+" durable, not known", "committed"
	}
	return p
}

// sagaPlaces are the moments of a step. After some that come before the intent it
// takes 40 seconds until nobody can be about to send the call any more.
var sagaPlaces = []sagaPlace{
	{deadPlace: stepTo("undo_steps", "making", false), ends: "done", short: true},
	{deadPlace: stepTo("undo_steps", "making", true), ends: "done"},
	{deadPlace: recorded("call.intent", false), ends: "done"},
	{deadPlace: recorded("call.intent", true), ends: "done"},
	{deadPlace: recorded("call.intent", true), blind: true, ends: "unknown"},
	{deadPlace: deadPlace{name: "forwarding", upstream: "connected"}, ends: "done"},
	{deadPlace: deadPlace{name: "forwarded", upstream: "received"}, ends: "done"},
	{deadPlace: deadPlace{name: "forwarded, and nothing tells", upstream: "received"}, blind: true, ends: "unknown", short: true},
	{deadPlace: recorded("call.outcome", false), ends: "done", short: true},
	{deadPlace: recorded("call.outcome", true), ends: "done"},
	{deadPlace: stepTo("undo_steps", "done", false), blind: true, ends: "done"},
	{deadPlace: stepTo("undo_steps", "done", true), ends: "done"},
	{deadPlace: stepTo("undos", "done", false), ends: "done"},
	{deadPlace: stepTo("undos", "done", true), ends: "done"},
}

// Whatever the moment at which the server dies while it undoes a call: the
// compensating call is made at most once, and its step ends done, or unknown and
// with a person.
func TestKillOfASaga(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		own := dsn
		var wire *tap
		if strings.HasPrefix(dsn, "postgres") {
			wire, dsn = newTap(t, dsn)
		}
		p := newPlant(t, t.TempDir(), dsn)
		s := newShop(t, p.process)
		for i, place := range sagaPlaces {
			if !place.short && !long() || place.when == "committed" && wire == nil && !hasStrace(t) {
				continue
			}
			p.undoDies(s, place, wire, own, fmt.Sprintf("order-%d", i))
		}
		p.dsn = own
		p.whole()
	})
}

// undoDies has the server die while it undoes an order, starts it again, and
// waits for how it ends.
func (p *plant) undoDies(s *shop, at sagaPlace, wire *tap, own, note string) {
	p.t.Helper()
	path := "/orders"
	if at.blind {
		path = "/blind"
	}
	what, plan := s.ordered(p.t, p.process, p.key, path, note)
	if at.upstream != "" {
		victim := p.process
		s.acts(at.upstream, func() { _ = victim.cmd.Process.Kill() })
	} else {
		p.arm(at.deadPlace, wire)
	}
	victim := p.process
	gone := make(chan struct{})
	go func() { _ = victim.cmd.Wait(); close(gone) }()
	go func() {
		_, _ = client.New(victim.url, victim.token).WithReason("test").BeginUndo(p.t.Context(), what, plan.Digest) // it may die over it
	}()
	select {
	case <-gone:
	case <-time.After(60 * time.Second):
		_ = victim.cmd.Process.Kill()
		<-gone
		p.t.Errorf("%s: it was never reached\n%s", at.name, tailOf(victim.stderr.Bytes()))
	}
	s.at.Store(nil)
	if !p.wasKilled(at.deadPlace) {
		return
	}
	p.freed(own, "undo")
	p.again()
	p.recovers(30 * time.Second)
	u := p.sagaEnds(what.Call)
	made := len(s.cancels(note))
	p.t.Logf("%s: %s, made %d times", at.name, u.Steps[0].State, made)
	if made > 1 || u.Steps[0].State != at.ends || at.ends == "done" && made != 1 {
		p.t.Errorf("%s: %+v, made %d times", at.name, u, made)
	}
	if at.ends == "unknown" {
		p.personSettles(at, u)
	}
	if again, err := client.New(p.url, p.token).WithReason("test").BeginUndo(p.t.Context(), what, plan.Digest); err == nil {
		p.t.Errorf("%s: it is undone twice: %+v", at.name, again)
	}
	if n := len(s.cancels(note)); n != made {
		p.t.Errorf("%s: made %d times in the end", at.name, n)
	}
}

// freed lets a lease of the dead server run out now.
func (p *plant) freed(dsn, lease string) {
	p.t.Helper()
	db, err := storage.Open(p.t.Context(), dsn)
	if err == nil {
		err = db.Tx(p.t.Context(), func(tx *storage.Tx) error {
			_, err := tx.Exec(p.t.Context(), `UPDATE leases SET until = 0 WHERE name = $1`, lease)
			return err
		})
		db.Close()
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// sagaEnds waits until the undo of a call is with nobody but a person.
func (p *plant) sagaEnds(call string) (u client.Undo) {
	p.t.Helper()
	c := client.New(p.url, p.token)
	p.eventually(3*time.Minute, "the undo does not end", func() bool {
		all, err := c.Undos(context.Background())
		i := slices.IndexFunc(all, func(u client.Undo) bool { return u.Object == "call/"+call })
		if err == nil && i >= 0 && all[i].State != "running" {
			u, err = c.Undo(context.Background(), all[i].ID)
			return err == nil
		}
		return false
	})
	return u
}

// personSettles is the person to whom a step was left.
func (p *plant) personSettles(at sagaPlace, u client.Undo) {
	p.t.Helper()
	if u.State != "attention" || !strings.Contains(u.Steps[0].Why, "nobody knows") {
		p.t.Errorf("%s: %+v", at.name, u)
		return
	}
	if _, err := client.New(p.url, p.token).WithReason("the shop says so").SettleUndo(p.t.Context(), u.ID, []int{1}, nil); err != nil {
		p.t.Errorf("%s: %v", at.name, err)
	}
	if u = p.sagaEnds(strings.TrimPrefix(u.Object, "call/")); u.State != "done" {
		p.t.Errorf("%s: %+v", at.name, u)
	}
}
