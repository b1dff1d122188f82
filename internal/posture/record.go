package posture

import (
	"encoding/json/v2"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Sealing is how the tree over the log goes.
type Sealing struct {
	Size       int64
	Behind     int64
	Checkpoint time.Time
	Problem    string // why nothing is sealed
}

// Delivery is a system that the log is sent to.
type Delivery struct {
	Name   string
	Behind int64
	Since  time.Time // when it began to fail; zero: it does not
	Error  string
}

// How many records, the newest of each lane, are verified in one run; the whole
// log is seen once a week by the self-audit.
const mostVerified = 20000

// settledWithin is how long a call may take until it must have an outcome.
const settledWithin = 2 * time.Hour

// kept is a record and whether it is what was written.
type kept struct{ object, event, bad string }

func (k kept) look() verdict {
	v := verdict{object: k.object, bad: k.bad}
	if k.event != "" {
		v.events = []string{k.event}
	}
	return v
}

// recorded is E10.
func (p *pass) recorded() []Check {
	outcomes := question{"outcomes", "Does every call that was let out have its one outcome?", "calls", "nothing was called yet", "", "a call of yesterday without an outcome"}
	chain := question{"chain", "Is every record what was written, without a gap?", "records", "nothing was called yet", "", "a record of this log with one bit changed"}
	tree := question{"tree", "Is the log sealed?", "logs", "nothing was called yet", "", "a log that is not sealed any more"}
	sent := question{"delivery", "Does every system get the log that it is sent to?", "systems", "", "the log is not sent anywhere", "a system that refuses the log"}
	t, err := p.observe()
	if err == nil && len(t.calls) == 0 {
		return []Check{unasked(outcomes, outcomes.none), unasked(chain, chain.none), unasked(tree, tree.none)}
	}
	if err != nil {
		return []Check{failed(outcomes, err), failed(chain, err), failed(tree, err)}
	}
	out := []Check{p.outcomes(outcomes, t), p.chain(chain)}
	s, err := p.s.o.Sealed(p.ctx)
	old := Sealing{Behind: 1, Checkpoint: p.now.Add(-2 * sealBehind)}
	out = append(out, answer(p, tree, []Sealing{s}, err, old, func(s Sealing) verdict { return s.look(p.now) }))
	all, err := p.s.o.Deliveries(p.ctx)
	if err != nil {
		return append(out, failed(sent, err))
	}
	return append(out, judge(p, sent, all, Delivery{Name: "canary", Since: p.now, Error: "it is refused"}, Delivery.look))
}

func (d Delivery) look() verdict {
	v := verdict{object: "export/" + d.Name}
	if !d.Since.IsZero() {
		v.bad = fmt.Sprintf("it has failed since %s, %d events wait: %s", d.Since.UTC().Format(time.RFC3339), d.Behind, cut(d.Error, 200))
	}
	return v
}

// sealBehind is how old the newest checkpoint may be while records wait.
const sealBehind = 5 * time.Minute

func (s Sealing) look(now time.Time) verdict {
	v := verdict{object: "log/tree"}
	switch {
	case s.Problem != "":
		v.bad = s.Problem
	case s.Behind > 0 && now.Sub(s.Checkpoint) > sealBehind:
		v.bad = fmt.Sprintf("%d records wait, and the newest checkpoint is of %s", s.Behind, s.Checkpoint.UTC().Format(time.RFC3339))
	}
	return v
}

// outcomes looks at the intents that were observed.
func (p *pass) outcomes(q question, t *traffic) Check {
	ended := map[string]int{}
	page := audit.Query{Types: []audit.Type{audit.CallOutcome}, Since: t.since, Limit: perPage}
	for range 2 * mostPages {
		recs, err := p.s.o.Log.List(p.ctx, page)
		if err != nil {
			return failed(q, err)
		}
		for _, r := range recs {
			ended[r.Event.Call]++
		}
		if len(recs) < page.Limit {
			break
		}
		page.After = recs[len(recs)-1].Event.ID
	}
	look := func(ev audit.Event) verdict {
		v := verdict{object: "call/" + ev.Call, events: []string{ev.ID}}
		switch n := ended[ev.Call]; {
		case n > 1:
			v.bad = fmt.Sprintf("it has %d outcomes", n)
		case n == 0 && p.now.Sub(ev.Time) > settledWithin:
			v.bad = "it was let out at " + ev.Time.UTC().Format(time.RFC3339) + " and has no outcome"
		}
		return v
	}
	var rows []audit.Event
	for _, ev := range t.calls {
		if ev.Type == audit.CallIntent {
			rows = append(rows, ev)
		}
	}
	if len(rows) == 0 { // all was refused: that is a record too, and complete by itself
		q.apart = "every call was refused or waits"
	}
	return judge(p, q, rows, audit.Event{ID: "canary", Call: "canary", Time: p.now.Add(-24 * time.Hour)}, look)
}

// chain verifies the newest records of every lane, and one that it changed.
func (p *pass) chain(q question) Check {
	head, err := p.s.o.Log.Head(p.ctx)
	if err != nil {
		return failed(q, err)
	}
	var rows []kept
	for _, lane := range slices.Sorted(maps.Keys(head)) {
		from := max(0, head[lane]-mostVerified/int64(len(head)))
		if head[lane] == from {
			continue
		}
		got, err := p.s.o.Log.VerifySlice(p.ctx, audit.Place{Lane: lane, SN: from}, head[lane]-from)
		if err != nil {
			return failed(q, err)
		}
		for sn := from + 1; sn <= head[lane]; sn++ {
			rows = append(rows, kept{object: fmt.Sprintf("lane %d, record %d", lane, sn)})
		}
		for _, x := range got.Problems {
			rows = append(rows, kept{fmt.Sprintf("lane %d, record %d", x.Lane, x.SN), x.Event, x.Message})
		}
	}
	altered, err := p.altered(head)
	if err != nil {
		return failed(q, err)
	}
	return judge(p, q, rows, altered, kept.look)
}

// mostTaken is how many records of a lane are looked through for one whose chain
// holds.
const mostTaken = 50

// altered takes a record of the log whose chain holds, changes one bit of a copy
// and looks whether it still does.
func (p *pass) altered(head audit.Cursor) (kept, error) {
	k := kept{object: "canary"}
	for _, lane := range slices.Sorted(maps.Keys(head)) {
		from := max(0, head[lane]-mostTaken)
		var before audit.Hash
		err := p.s.o.Log.Raw(p.ctx, lane, from, head[lane], func(sn int64, chain, record []byte) error {
			holds := func(b []byte) bool {
				h := audit.ChainHash(before, lane, sn, audit.LeafHash(b))
				return string(h[:]) == string(chain)
			}
			if sn > from+1 && k.bad == "" && holds(record) {
				changed := slices.Clone(record)
				if changed[len(changed)/2] ^= 1; !holds(changed) {
					k.bad = "its chain does not hold"
				}
			}
			copy(before[:], chain)
			return nil
		})
		if err != nil || k.bad != "" {
			return k, err
		}
	}
	return k, nil
}

// Floor is how long records must be kept, in days (EU AI Act, articles 19 and 26).
const Floor = audit.RetentionFloor

// keeping is a setting or a deletion.
type keeping struct {
	object string
	event  string
	days   int
	why    string // of a deletion by a person
	person bool
}

func (k keeping) look() verdict {
	v := verdict{object: k.object}
	if k.event != "" {
		v.events = []string{k.event}
	}
	switch {
	case k.person && k.why == "":
		v.bad = "payloads were erased without a reason"
	case !k.person && k.days < Floor:
		v.bad = fmt.Sprintf("payloads are kept for %d days, fewer than %d", k.days, Floor)
	}
	return v
}

// retained is E11.
func (p *pass) retained() []Check {
	set := question{"retention", fmt.Sprintf("Are payloads kept for at least %d days?", Floor), "settings", "nothing was called yet: there is nothing to keep", "", "a retention of 30 days"}
	gone := question{"deletions", "Was no payload deleted before, but by a person who said why?", "deletions", "", "nothing was deleted", "a deletion after 30 days"}
	whole := question{"beginning", "Does every lane of the log begin at its first record?", "lanes", "nothing was called yet: there is nothing to keep", "", "a lane whose first record is gone"}
	t, err := p.observe()
	if err != nil {
		return []Check{failed(set, err), failed(gone, err), failed(whole, err)}
	}
	if len(t.calls) == 0 {
		return []Check{unasked(set, set.none), unasked(whole, whole.none)}
	}
	short := keeping{object: "canary", days: 30}
	r, err := p.s.o.Log.Retention(p.ctx)
	out := []Check{answer(p, set, []keeping{{object: "log/retention", days: r.Days}}, err, short, keeping.look)}
	deleted, err := p.deletions()
	out = append(out, answer(p, gone, deleted, err, short, keeping.look))
	lanes, none, err := p.beginnings()
	return append(out, answer(p, whole, lanes, err, none, beginning.look))
}

func (p *pass) deletions() ([]keeping, error) {
	q := audit.Query{Types: []audit.Type{audit.PayloadExpired, audit.PayloadErased}, Since: p.now.Add(-window), Limit: perPage}
	var rows []keeping
	for range mostPages {
		recs, err := p.s.o.Log.List(p.ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			k := keeping{object: "event/" + r.Event.ID, event: r.Event.ID, why: r.Event.Reason, person: r.Event.Type == audit.PayloadErased}
			var d struct {
				Days int `json:"days"`
			}
			if json.Unmarshal(r.Event.Detail, &d) == nil {
				k.days = d.Days
			}
			rows = append(rows, k)
		}
		if len(recs) < q.Limit {
			break
		}
		q.After = recs[len(recs)-1].Event.ID
	}
	return rows, nil
}

// beginning is a lane, and how many records stand where its first one should.
type beginning struct {
	lane  int64
	first int
}

func (b beginning) look() verdict {
	v := verdict{object: fmt.Sprintf("lane %d", b.lane)}
	if b.first != 1 {
		v.bad = "its first record is gone"
	}
	return v
}

// beginnings reads the first record of every lane, and of one that does not
// exist: none stands there.
func (p *pass) beginnings() (rows []beginning, none beginning, err error) {
	head, err := p.s.o.Log.Head(p.ctx)
	if err != nil {
		return nil, none, err
	}
	read := func(lane int64) (b beginning, err error) {
		b.lane = lane
		return b, p.s.o.Log.Raw(p.ctx, lane, 0, 1, func(int64, []byte, []byte) error { b.first++; return nil })
	}
	last := int64(0)
	for _, lane := range slices.Sorted(maps.Keys(head)) {
		if last = max(last, lane); head[lane] == 0 {
			continue
		}
		b, err := read(lane)
		if err != nil {
			return nil, none, err
		}
		rows = append(rows, b)
	}
	none, err = read(last + 1)
	return rows, none, err
}
