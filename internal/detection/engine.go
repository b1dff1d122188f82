package detection

import (
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Bounds of an engine.
const (
	maxKeys = 20_000 // of each kind; the one that was quiet for longest makes place
	sample  = 16     // of keys that are looked at for that
	// skew is how far the clocks of replicas may be apart: an event that is older
	// than the newest of its key by less than this counts as if it were new.
	skew = int64(15 * time.Minute / time.Microsecond)
)

// watchSignal is the type by which rules watch what other rules found.
const watchSignal = "signal"

// Signal is a rule that fired.
type Signal struct {
	Rule       string
	Key, Value string // what was counted for: "credential", "key_…"
	Agent      string
	Credential string
	Connection string
	Event      string   // that decided
	At         int64    // when that was, microseconds
	Events     []string // that show it, the deciding one last
	Seen       string
	Normal     string
	Again      int64 // how often it would have fired since it last did

	rule  *rule
	stage string
}

// Object is what a finding about it is about.
func (s *Signal) Object() string {
	if s.Key == keyNames[byObject] {
		return s.Value
	}
	if s.Key == keyNames[byAll] {
		return "agent/" + s.Agent
	}
	return s.Key + "/" + s.Value
}

// Engine evaluates events. It is not safe for concurrent use.
type Engine struct {
	rules  []*rule
	byType map[string][]int
	byForm map[string]int
	keys   [keyKinds]map[string]*keyState
	labels func(agent string) []string // "key=value"; nil: none
	seed   uint64

	reader  reader
	fact    Fact
	moment  moment
	signals []Signal
	touched []*keyState
	gone    []*keyState // that made place since they were last asked for
	bound   int64       // no event counts as later than this; 0: any may
}

// newEngine returns an engine with rules and no state.
func newEngine(rules []*rule, seed uint64, labels func(string) []string) *Engine {
	e := &Engine{rules: rules, byType: map[string][]int{}, byForm: map[string]int{}, labels: labels, seed: seed}
	for i, r := range rules {
		e.byForm[r.form] = i
		if r.mode == Off {
			continue
		}
		for _, t := range r.Watch {
			if !slices.Contains(e.byType[t], i) {
				e.byType[t] = append(e.byType[t], i)
			}
		}
	}
	for i := range e.keys {
		e.keys[i] = map[string]*keyState{}
	}
	return e
}

// hash tells values apart. It is seeded, so that nobody can make values that look
// alike.
func (e *Engine) hash(s string) uint64 {
	h := e.seed ^ 0xcbf29ce484222325
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	h *= 0xbf58476d1ce4e5b9
	return h ^ h>>32
}

// Observe evaluates one event and returns the rules that fired. What it returns
// is good until the next call.
func (e *Engine) Observe(ev *audit.Event) []Signal {
	e.signals = e.signals[:0]
	watching := e.byType[string(ev.Type)]
	if len(watching) == 0 {
		return nil
	}
	e.reader.fact(ev, &e.fact)
	for _, i := range watching {
		e.evaluate(i, &e.fact)
	}
	if n := len(e.signals); n > 0 {
		e.addUp(n)
	}
	return e.signals
}

// addUp shows the signals of an event to the rules that watch signals. A rule
// that acts counts only those that do.
func (e *Engine) addUp(n int) {
	for i := range n {
		s := e.signals[i]
		f := Fact{ID: s.Event, At: s.At, Type: watchSignal, Agent: s.Agent, Credential: s.Credential, Connection: s.Connection, Stage: s.stage, Rule: s.Rule, Weight: s.rule.weight, Times: 1}
		for _, w := range e.byType[watchSignal] {
			if e.rules[w].mode == Enforce && s.rule.mode != Enforce {
				continue
			}
			e.evaluate(w, &f)
		}
	}
}

// evaluate counts an event under one rule.
func (e *Engine) evaluate(i int, f *Fact) {
	r := e.rules[i]
	value := r.key.of(f)
	if value == "" {
		return
	}
	m := &e.moment
	m.engine, m.fact, m.own, m.base = e, f, nil, nil
	if r.where != nil && !r.where(m) {
		return
	}
	k := e.key(r.key, value)
	m.at = k.time(f.At, e.bound)
	m.own = e.state(k, i)
	base := k
	if r.key == byCredential && f.Agent != "" {
		base = e.key(byAgent, f.Agent)
		base.time(f.At, e.bound)
	}
	m.base = e.state(base, i)
	if m.own.First == 0 {
		m.own.First = m.at
	}
	if m.base.First == 0 {
		m.base.First = m.at
	}
	m.count(r)
	e.touch(k)
	if base != k {
		e.touch(base)
	}
	m.own.note(f.ID)
	if !r.when(m) {
		return
	}
	m.spoil(r)
	if m.own.Fired != 0 && m.at-m.own.Fired < r.quiet {
		m.own.Muted++
		return
	}
	e.fire(r, value, m)
}

func (e *Engine) fire(r *rule, value string, m *moment) {
	f := m.fact
	e.signals = append(e.signals, Signal{
		Rule: r.ID, Key: keyNames[r.key], Value: strings.Clone(value), Agent: f.Agent, Credential: f.Credential, Connection: f.Connection,
		Event: f.ID, At: f.At, Events: slices.Clone(m.own.Events), Seen: r.seen.String(m), Normal: r.normal.String(m), Again: m.own.Muted, rule: r, stage: f.Stage,
	})
	m.own.Fired, m.own.Muted = m.at, 0
}

// count brings the rule's measures up to date.
func (m *moment) count(r *rule) {
	if len(m.own.Tallies) == 0 && len(r.measures) > 0 {
		m.own.Tallies = make([]tally, len(r.measures))
	}
	if len(m.base.Known) == 0 && len(r.measures) > 0 {
		m.base.Known = make([]tally, len(r.measures))
	}
	learning := m.learning(r)
	for j := range r.measures {
		d := &r.measures[j]
		known := &m.base.Known[j]
		v := d.add(&m.own.Tallies[j], known, m, d.where == nil || d.where(m))
		if d.op == opFresh && learning {
			v = 0
		}
		if m.values[j] = v; d.learned {
			most := 0.0
			if l := r.limit(d.name); l != nil {
				most = l.of(m)
			}
			d.learn(known, m.at, v, most)
		}
	}
}

// time is what an event's time counts as for a key: never before the newest but
// for what is really old, and never after bound.
func (k *keyState) time(at, bound int64) int64 {
	if bound != 0 && at > bound {
		at = bound
	}
	if at < k.seen && k.seen-at < skew {
		return k.seen
	}
	k.seen = max(k.seen, at)
	return at
}

func (e *Engine) key(kind keyKind, value string) *keyState {
	k := e.keys[kind][value]
	if k != nil {
		return k
	}
	if len(e.keys[kind]) >= maxKeys {
		e.forget(kind)
	}
	value = strings.Clone(value) // of an event that is not kept
	k = &keyState{kind: kind, value: value, rules: make([]*ruleState, len(e.rules))}
	e.keys[kind][value] = k
	return k
}

// forget makes place for a key.
func (e *Engine) forget(kind keyKind) {
	var oldest *keyState
	n := 0
	for _, k := range e.keys[kind] {
		if oldest == nil || k.seen < oldest.seen {
			oldest = k
		}
		if n++; n == sample {
			break
		}
	}
	delete(e.keys[kind], oldest.value)
	e.gone = append(e.gone, oldest)
}

func (e *Engine) state(k *keyState, i int) *ruleState {
	if k.rules[i] == nil {
		k.rules[i] = &ruleState{}
	}
	return k.rules[i]
}

func (e *Engine) touch(k *keyState) {
	if !k.dirty {
		k.dirty = true
		e.touched = append(e.touched, k)
	}
}

// forgive forgets what a rule counted of a key: a person has lifted what it did.
func (e *Engine) forgive(id, key, value string) {
	kind := slices.Index(keyNames[:], key)
	if kind < 0 {
		return
	}
	k := e.keys[kind][value]
	if k == nil {
		return
	}
	for i, r := range e.rules {
		if r.ID == id && k.rules[i] != nil {
			known, first := k.rules[i].Known, k.rules[i].First
			k.rules[i] = &ruleState{First: first, Known: known}
			e.touch(k)
		}
	}
}
