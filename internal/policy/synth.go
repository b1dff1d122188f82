package policy

import (
	"cmp"
	"context"
	"encoding/json/v2"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// ErrNothing says that there is nothing to make a policy of.
var ErrNothing = fault.New(fault.NotFound, "nothing_allowed", "nothing that the agent did was allowed in this time; a policy that allows nothing needs no writing")

// Synthesis is the least that would have allowed what an agent did.
type Synthesis struct {
	Agent   string   `json:"agent"`
	Grants  []Grant  `json:"grants" doc:"for each connection, and for each tool whose arguments are bounded"`
	Cedar   string   `json:"cedar" doc:"the same as policies"`
	Calls   int64    `json:"calls" doc:"allowed calls that were looked at"`
	Tools   int      `json:"tools"`
	Unseen  int64    `json:"unseen,omitzero" doc:"of the calls, those whose arguments are not kept whole: the arguments of their tools are not bounded"`
	Gone    int64    `json:"gone,omitzero" doc:"of the calls, those of tools that are not registered any more: they are not in it"`
	Loose   []string `json:"loose,omitempty" doc:"tools whose bounds refused something and were left out"`
	Partial bool     `json:"partial,omitempty" doc:"only the newest calls were looked at"`
	// What the grants would change were they put in place of the agent's.
	Trial Backtest `json:"trial"`
}

// mostSynth is how many calls a policy is made of, the newest.
const mostSynth = 200_000

// Synth writes the least grants that would have allowed what an agent was
// allowed in a time: its tools, with the values that their arguments had. It is
// tried on what it was made of, and what refuses anything of it is widened. by
// is recorded: it tells what arguments were.
func (s *Service) Synth(ctx context.Context, by audit.Actor, agent string, w Window) (Synthesis, error) {
	e := s.engine.Load()
	if e == nil {
		return Synthesis{}, ErrNotReady
	}
	b := &builder{s: s, e: e, tools: map[toolKey]*seenTool{}, out: Synthesis{Agent: agent}}
	w.Agent, w.After, w.Version = agent, "", ""
	w.Most = cmp.Or(w.Most, mostSynth)
	if err := b.learn(ctx, w); err != nil {
		return Synthesis{}, err
	}
	if len(b.tools) == 0 {
		return Synthesis{}, ErrNothing
	}
	mine, err := s.Grants(ctx, "")
	if err != nil {
		return Synthesis{}, err
	}
	if err := b.settle(ctx, w, mine); err != nil {
		return Synthesis{}, err
	}
	detail, err := json.Marshal(map[string]any{"agent": agent, "synth": true, "grants": b.out.Grants}, json.Deterministic(true))
	if err != nil {
		return Synthesis{}, err
	}
	return b.out, s.log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "policy.backtested", Actor: by, Object: "policy", Agent: agent, Detail: detail})
		return nil
	})
}

// builder gathers what an agent did.
type builder struct {
	s     *Service
	e     *engine
	tools map[toolKey]*seenTool
	out   Synthesis
}

// seenTool is a tool that was called, and the values of its arguments.
type seenTool struct {
	calls  int64
	free   bool // its arguments are not bounded
	bounds map[string]*seenArgument
}

type seenArgument struct {
	Bound
	seen int64
	many bool // too many values, or some that are not known
}

// allowed reads allowed calls of registered tools, with their arguments.
func (b *builder) allowed(ctx context.Context, w Window, fn func(rec *audit.Record, t *tool)) (next string, err error) {
	return b.s.eachCall(ctx, w, []audit.Type{audit.CallIntent}, func(recs []audit.Record) error {
		if err := b.s.log.LoadPayloads(ctx, recs); err != nil {
			return err
		}
		for i := range recs {
			ev := &recs[i].Event
			fn(&recs[i], b.e.ts.tools[toolKey{ev.Connection, ev.Tool}])
		}
		return ctx.Err()
	})
}

func (b *builder) learn(ctx context.Context, w Window) error {
	next, err := b.allowed(ctx, w, func(rec *audit.Record, t *tool) {
		b.out.Calls++
		if t == nil {
			b.out.Gone++
			return
		}
		one := b.tools[t.toolKey]
		if one == nil {
			one = &seenTool{bounds: map[string]*seenArgument{}}
			b.tools[t.toolKey] = one
		}
		one.calls++
		args, err := readArgs(t.args, b.s.recorded(rec)[0].Args)
		if err != nil || !seen(rec) {
			b.out.Unseen++
			one.free = true
			return
		}
		one.learn(t.args, args, nil)
	})
	b.out.Partial, b.out.Tools = next != "", len(b.tools)
	return err
}

// learn notes the values of a record's arguments. One that is not there notes
// nothing, and so stays behind the calls.
func (t *seenTool) learn(typ *argType, rec types.Record, path []string) {
	for name, f := range typ.fields {
		if strings.Contains(name, ".") {
			continue
		}
		here := append(slices.Clone(path), name)
		v, there := rec.Get(f.name)
		if inner, ok := v.(types.Record); ok && f.typ.kind == recordArg {
			t.learn(f.typ, inner, here)
			continue
		}
		kind := kindAt(&argType{kind: recordArg, fields: map[string]*argField{name: f}}, []string{name})
		if kind == "" {
			continue
		}
		key := strings.Join(here, ".")
		a := t.bounds[key]
		if a == nil {
			if len(t.bounds) >= maxArguments {
				continue
			}
			a = &seenArgument{Bound: Bound{Argument: Argument{key, kind}}}
			t.bounds[key] = a
		}
		if there {
			a.add(v)
		}
	}
}

// Limits on the values that a synthesised condition lists.
const (
	maxListed     = 20
	maxListedText = 128 // bytes of one
)

func (a *seenArgument) add(v types.Value) {
	a.seen++
	switch v := v.(type) {
	case types.Long:
		a.number(int64(v))
	case types.Decimal:
		n, ok := exact(v.String(), 4)
		a.many = a.many || !ok
		a.number(n)
	case types.Boolean:
		a.text(fmt.Sprint(bool(v)))
	case types.String:
		a.text(string(v))
	case types.Set:
		for one := range v.All() {
			a.text(string(one.(types.String))) //nolint:forcetypeassert // of strings, by its kind
		}
	}
}

func (a *seenArgument) number(n int64) {
	if a.seen == 1 {
		a.Min, a.Max = n, n
	}
	a.Min, a.Max = min(a.Min, n), max(a.Max, n)
}

func (a *seenArgument) text(s string) {
	at, there := slices.BinarySearch(a.Values, s)
	switch {
	case there:
	case len(a.Values) >= maxListed || len(s) > maxListedText || strings.Contains(s, "[redacted:"):
		a.many = true
	default:
		a.Values = slices.Insert(a.Values, at, s)
	}
}

// settle writes the grants and tries them on what they were made of, until they
// refuse nothing of it; then it says what they would change.
func (b *builder) settle(ctx context.Context, w Window, there []Grant) error {
	for {
		b.write(there)
		alone, _ := build(content{grants: b.out.Grants}, b.e.ts, nil)
		again := false
		_, err := b.allowed(ctx, w, func(rec *audit.Record, t *tool) {
			if t == nil || b.tools[t.toolKey] == nil || b.tools[t.toolKey].free {
				return // or it came meanwhile
			}
			if req := b.s.recorded(rec)[0]; alone.decide(&req).Effect != Allow {
				b.tools[t.toolKey].free, again = true, true
				b.out.Loose = append(b.out.Loose, t.String())
			}
		})
		if err != nil {
			return err
		}
		if !again {
			break
		}
	}
	trial := Trial{Grants: b.out.Grants}
	for _, g := range there {
		if g.Agent == b.out.Agent && !slices.ContainsFunc(b.out.Grants, func(x Grant) bool { return x.Name == g.Name }) {
			trial.Revoke = append(trial.Revoke, g.Name)
		}
	}
	tests, err := b.s.Backtests(ctx, []Trial{trial}, w)
	if err == nil {
		b.out.Trial = tests[0]
	}
	return err
}

// write makes the grants: one a connection for tools without conditions, and one
// for each other.
func (b *builder) write(there []Grant) {
	b.out.Grants = nil
	var free []toolKey
	for _, k := range slices.SortedFunc(maps.Keys(b.tools), func(a, b toolKey) int {
		return cmp.Or(strings.Compare(a.connection, b.connection), strings.Compare(a.tool, b.tool))
	}) {
		cond := b.condition(k)
		if cond == "" {
			free = append(free, k)
			continue
		}
		b.grant(there, k.connection+"-"+k.tool, k.connection, cond, k.tool)
	}
	for len(free) > 0 {
		var tools []string
		conn := free[0].connection
		for len(free) > 0 && free[0].connection == conn && len(tools) < maxGrantTools {
			tools, free = append(tools, free[0].tool), free[1:]
		}
		b.grant(there, conn, conn, "", tools...)
	}
	var text strings.Builder
	for _, g := range b.out.Grants {
		fmt.Fprintf(&text, "@id(%q)\n%s\n", g.Name, g.cedar())
	}
	b.out.Cedar = text.String()
}

// condition bounds a tool's arguments, as many as a grant can say.
func (b *builder) condition(k toolKey) string {
	t := b.tools[k]
	if t.free {
		return ""
	}
	var bounds []Bound
	for _, path := range slices.Sorted(maps.Keys(t.bounds)) {
		a := t.bounds[path]
		if a.many {
			continue
		}
		a.Never = a.seen == 0
		if more := append(bounds, a.Bound); len(b.e.condition(k, more)) <= maxGrantWhen {
			bounds = more
		}
	}
	return b.e.condition(k, bounds)
}

func (b *builder) grant(there []Grant, part, conn, when string, tools ...string) {
	base := clean(b.out.Agent + "-" + part)
	name := base
	taken := func() bool {
		return slices.ContainsFunc(slices.Concat(there, b.out.Grants), func(g Grant) bool { return g.Name == name && g.Agent != b.out.Agent }) ||
			slices.ContainsFunc(b.out.Grants, func(g Grant) bool { return g.Name == name })
	}
	for n := 2; taken(); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	b.out.Grants = append(b.out.Grants, Grant{Name: name, Agent: b.out.Agent, Connection: conn, Tools: tools, When: when})
}

// clean makes a grant's name of a text.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
	s = strings.TrimLeft(s, "-_.")
	return cmp.Or(s[:min(len(s), 90)], "synth")
}
