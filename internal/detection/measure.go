package detection

import (
	"fmt"
	"math"
	"time"

	"github.com/expr-lang/expr/ast"
)

// Bounds of what is kept for one measure.
const (
	maxMeasures = 8
	buckets     = 8  // in which a window slides
	maxDistinct = 32 // values counted apart; more count as so many
	maxKnown    = 96 // values remembered as seen; the oldest is forgotten first
	day         = int64(24 * time.Hour / time.Microsecond)
)

// The operations of measures.
const (
	opCount    = "count"    // count("1m", where): events in a window
	opSum      = "sum"      // sum(cost, "1h", where)
	opDistinct = "distinct" // distinct(model, "1m", where): different values in a window
	opDecayed  = "decayed"  // decayed(weight, "2h", where): a sum that halves in that time
	opFresh    = "fresh"    // fresh(model, "90d", where): 1 if the value was never seen in that time; it is seen then
	opEver     = "ever"     // ever(where): how often, without an end
	opAgo      = "ago"      // ago(where): seconds since the last one before this event; 0 if there was none
)

// measure is one thing that a rule counts.
type measure struct {
	name    string
	op      string
	over    int64              // microseconds
	of      compiled           // what is summed or told apart
	where   func(*moment) bool // nil: every event
	learned bool               // a rule asks what of it is normal
}

func (m *measure) windowed() bool {
	return m.op == opCount || m.op == opSum || m.op == opDistinct || m.op == opDecayed
}

// form are the arguments of an operation: the sort of its value, and whether it
// has a time.
var forms = map[string]struct {
	value, over bool
	sort        sort
}{
	opCount: {over: true}, opSum: {value: true, over: true, sort: number}, opDistinct: {value: true, over: true, sort: text},
	opDecayed: {value: true, over: true, sort: number}, opFresh: {value: true, over: true, sort: text}, opEver: {}, opAgo: {},
}

// compileMeasure reads a measure. where may use facts, not measures.
func (s scope) compileMeasure(name, source string) (m measure, err error) {
	n, err := parse(source)
	if err != nil {
		return m, err
	}
	m.name = name
	call, ok := n.(*ast.CallNode)
	if ok {
		if callee, is := call.Callee.(*ast.IdentifierNode); is {
			m.op = callee.Value
		}
	}
	form, known := forms[m.op]
	if !known {
		return m, fmt.Errorf("is none of count, sum, distinct, decayed, fresh, ever, ago")
	}
	args := call.Arguments
	if form.value {
		if len(args) == 0 {
			return m, fmt.Errorf("%s needs a value", m.op)
		}
		if m.of, err = s.node(args[0]); err != nil {
			return m, err
		}
		if m.of.sort != form.sort {
			return m, fmt.Errorf("%s takes %s", m.op, form.sort)
		}
		args = args[1:]
	}
	if form.over {
		if m.over, args, err = overOf(m.op, args); err != nil {
			return m, err
		}
	}
	if len(args) > 1 {
		return m, fmt.Errorf("%s has too many arguments", m.op)
	}
	if len(args) == 1 {
		c, err := s.node(args[0])
		if err != nil || c.sort != truth {
			return m, fmt.Errorf("which events %s counts must be true or false: %w", m.op, orNone(err))
		}
		m.where = c.yes
	}
	return m, nil
}

func orNone(err error) error {
	if err == nil {
		return fmt.Errorf("it is not")
	}
	return err
}

func overOf(op string, args []ast.Node) (int64, []ast.Node, error) {
	if len(args) > 0 {
		if w, ok := args[0].(*ast.StringNode); ok {
			d, err := duration(w.Value)
			if err == nil && d < time.Second {
				err = fmt.Errorf("a window has at least a second")
			}
			return d.Microseconds(), args[1:], err
		}
	}
	return 0, nil, fmt.Errorf(`%s needs a time, such as "10m"`, op)
}

// seen is a value and when it was last seen.
type seen struct {
	H uint64 `json:"h"`
	T int64  `json:"t"`
}

// tally is what is kept for one measure.
type tally struct {
	Head int64             `json:"n,omitzero"` // newest bucket; of decayed and ago, a time
	Ring *[buckets]float64 `json:"r,omitzero"`
	Set  []seen            `json:"s,omitzero"`
	Sum  float64           `json:"x,omitzero"`

	Peak  float64 `json:"p,omitzero"` // the most in a period, as learned; halves in two weeks
	Cur   float64 `json:"c,omitzero"` // the most in the present period
	Since int64   `json:"b,omitzero"` // when the present period began
}

// add counts an event at time at and returns the measure's value.
func (m *measure) add(t, known *tally, x *moment, counts bool) float64 {
	switch m.op {
	case opDistinct:
		return m.addDistinct(t, x, counts)
	case opFresh:
		return m.addFresh(known, x, counts)
	case opDecayed:
		if passed := x.at - t.Head; passed > 0 {
			t.Sum *= math.Exp2(-float64(passed) / float64(m.over))
			t.Head = x.at
		}
		if counts {
			t.Sum += m.of.num(x)
		}
		return t.Sum
	case opEver:
		if counts {
			t.Sum += x.fact.Times
		}
		return t.Sum
	case opAgo:
		was := t.Head
		if counts {
			t.Head = max(x.at, was)
		}
		if was == 0 {
			return 0
		}
		return float64(max(0, x.at-was)) / 1e6
	}
	v := 0.0
	if counts {
		if v = x.fact.Times; m.op == opSum {
			v = m.of.num(x)
		}
	}
	return m.addRing(t, x.at, v)
}

// addRing slides the window on and adds to it. What is older than the window
// counts for nothing.
func (m *measure) addRing(t *tally, at int64, v float64) float64 {
	if t.Ring == nil {
		if v == 0 {
			return 0
		}
		t.Ring = new([buckets]float64)
	}
	b := at / (m.over / buckets)
	if b-t.Head >= buckets {
		*t.Ring, t.Head = [buckets]float64{}, b
	}
	for ; t.Head < b; t.Head++ {
		t.Ring[(t.Head+1)%buckets] = 0
	}
	if t.Head-b < buckets {
		t.Ring[b%buckets] += v
	}
	sum := 0.0
	for _, n := range t.Ring {
		sum += n
	}
	return sum
}

func (m *measure) addDistinct(t *tally, x *moment, counts bool) float64 {
	b := x.at / (m.over / buckets)
	t.Head = max(t.Head, b)
	if counts {
		if value := m.of.str(x); value != "" {
			t.Set = remember(t.Set, x.engine.hash(value), b, maxDistinct)
		}
	}
	n, kept := 0, t.Set[:0]
	for _, s := range t.Set {
		if t.Head-s.T < buckets {
			n++
			kept = append(kept, s)
		}
	}
	t.Set = kept
	return float64(n)
}

// addFresh returns 1 for a value that is not known. It is known from then on.
func (m *measure) addFresh(t *tally, x *moment, counts bool) float64 {
	if !counts {
		return 0
	}
	value := m.of.str(x)
	if value == "" {
		return 0
	}
	h, today := x.engine.hash(value), x.at/day
	for i := range t.Set {
		if t.Set[i].H == h {
			old := today-t.Set[i].T > m.over/day
			t.Set[i].T = max(t.Set[i].T, today)
			return b2f(old)
		}
	}
	t.Set = remember(t.Set, h, today, maxKnown)
	return 1
}

// remember notes a value; when there are most, in place of the oldest.
func remember(set []seen, h uint64, t int64, most int) []seen {
	oldest := 0
	for i := range set {
		if set[i].H == h {
			set[i].T = max(set[i].T, t)
			return set
		}
		if set[i].T < set[oldest].T {
			oldest = i
		}
	}
	if len(set) < most {
		return append(set, seen{h, t})
	}
	set[oldest] = seen{h, t}
	return set
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// The learning of what is normal.
const (
	leastPeriod = int64(time.Hour / time.Microsecond)
	halfLife    = 14 * day
)

// learn notes a value for what is normal of a measure. most bounds what can be
// learned, so that whoever is patient cannot teach more than the limit. A period
// in which the rule fired teaches nothing.
func (m *measure) learn(t *tally, at int64, v, most float64) {
	if t.Since == 0 {
		t.Since = at
	}
	if passed := at - t.Since; passed >= max(m.over, leastPeriod) {
		t.Peak *= math.Exp2(-float64(passed) / float64(halfLife))
		if most > 0 {
			t.Cur = min(t.Cur, most)
		}
		t.Peak, t.Cur, t.Since = max(t.Peak, t.Cur), 0, at
	}
	if t.Cur >= 0 {
		t.Cur = max(t.Cur, v)
	}
}

// spoil takes the present period out of what is learned.
func (t *tally) spoil() {
	if t.Since != 0 {
		t.Cur = -1
	}
}
