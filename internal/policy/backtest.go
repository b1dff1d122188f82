package policy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// ErrMoved says that a backtest cannot be continued as it began.
var ErrMoved = fault.New(fault.Conflict, "policies_moved", "the policies, grants or tools in force changed during the backtest; begin it again")

// Trial is a change of policies and grants that is tried against recorded calls.
type Trial struct {
	Files  map[string]string // in place of the saved files of these names; an empty text leaves one out
	Grants []Grant           // in place of the saved grants of these names
	Revoke []string          // grants left out
}

// Window says which recorded calls are decided again, the newest first.
type Window struct {
	Since, Until time.Time // Since is included, Until is not; zero: without bound
	Agent        string    // empty: every agent
	After        string    // Backtest.Next of the part before
	Version      string    // Backtest.Version of the part before; empty for the first
	Most         int       // calls looked at in this part; 0 means 20,000
}

// Backtest is what a trial would have changed about recorded calls. Both the
// rules in force and those of the trial decide every call anew, so that it
// compares rules and nothing else: what was decided then is in the log.
type Backtest struct {
	Version  string    `json:"version" doc:"of the rules in force and of the trial, together"`
	Calls    int64     `json:"calls" doc:"recorded calls looked at"`
	Affected int64     `json:"affected" doc:"of those, calls that a changed rule is about; the others are decided alike without looking"`
	Unseen   int64     `json:"unseen" doc:"affected calls whose arguments a rule asks for and that were erased, cut or never kept: nothing is said of them"`
	Gone     int64     `json:"gone" doc:"calls of tools that are not registered any more"`
	Assumed  int64     `json:"assumed" doc:"affected calls about which a rule asks what is not recorded: the run's age and calls, the kind of credential, where values came from, budgets of which no policy asked then"`
	Changes  []Change  `json:"changes" doc:"the most frequent first"`
	Oldest   time.Time `json:"oldest,omitzero" doc:"of the calls looked at"`
	Next     string    `json:"next,omitempty" doc:"where the next part begins; empty: there are no older calls"`
}

// Change is calls of one agent and tool that the trial decides differently, and
// in the same way.
type Change struct {
	Agent  string    `json:"agent"`
	Tool   string    `json:"tool" doc:"connection/tool"`
	From   string    `json:"from" enum:"allow,deny,hold"`
	To     string    `json:"to" enum:"allow,deny,hold"`
	By     []string  `json:"by,omitempty" doc:"the policies and grants that determine it in the trial; none: nothing allows it"`
	Count  int64     `json:"count"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Events []string  `json:"events" doc:"the newest of them, at most five"`
}

const (
	defaultPart  = 20_000
	backtestPage = 1000
	maxExamples  = 5
	maxChanges   = 1000 // of different kinds in a part: beyond it they are counted together
)

// decided are the events that hold a decision of policy.
var decided = []audit.Type{audit.CallIntent, audit.CallDenied, audit.CallHeld}

// Backtest decides recorded calls again, by the rules in force and by those of
// the trial, and says which come out differently. Nothing is changed and nobody
// is asked. by is recorded, once a backtest: what a policy says about recorded
// arguments tells what they were.
func (s *Service) Backtest(ctx context.Context, by audit.Actor, t Trial, w Window) (Backtest, error) {
	b, err := s.backtester(t)
	if err != nil {
		return Backtest{}, err
	}
	if w.Version == "" {
		if err := s.recordBacktest(ctx, by, t, w); err != nil {
			return Backtest{}, err
		}
	} else if w.Version != b.out.Version {
		return Backtest{}, ErrMoved
	}
	if err := s.try(ctx, w, b); err != nil {
		return Backtest{}, err
	}
	return b.out, nil
}

// Backtests is Backtest of several trials over the same calls, which are read
// once. It is not recorded: what it tells of arguments is for the caller to keep.
func (s *Service) Backtests(ctx context.Context, trials []Trial, w Window) ([]Backtest, error) {
	all := make([]*backtester, len(trials))
	for i, t := range trials {
		var err error
		if all[i], err = s.backtester(t); err != nil {
			return nil, err
		}
	}
	if err := s.try(ctx, w, all...); err != nil {
		return nil, err
	}
	out := make([]Backtest, len(all))
	for i, b := range all {
		out[i] = b.out
	}
	return out, nil
}

// try takes a part of the recorded calls to every backtester.
func (s *Service) try(ctx context.Context, w Window, all ...*backtester) error {
	next, err := s.eachCall(ctx, w, decided, func(recs []audit.Record) error {
		var affected []audit.Record
		for _, b := range all {
			affected = b.page(affected, recs)
		}
		if err := s.log.LoadPayloads(ctx, affected); err != nil {
			return err
		}
		for _, b := range all {
			b.compare(affected)
		}
		return ctx.Err()
	})
	for _, b := range all {
		b.out.Next = next
		b.finish()
	}
	return err
}

// eachCall reads recorded calls of some types, the newest first, page by page,
// and returns from where to go on.
func (s *Service) eachCall(ctx context.Context, w Window, types []audit.Type, fn func([]audit.Record) error) (next string, err error) {
	q := audit.Query{Agent: w.Agent, Types: types, Since: w.Since, Until: w.Until, After: w.After, Limit: backtestPage}
	group, ctx := errgroup.WithContext(ctx)
	pages := make(chan []audit.Record, 1) // one is read while fn has another
	group.Go(func() error {
		defer close(pages)
		for left := cmp.Or(w.Most, defaultPart); left > 0; left -= backtestPage {
			recs, err := s.log.List(ctx, q)
			if err != nil {
				return err
			}
			select {
			case pages <- recs:
			case <-ctx.Done():
				return ctx.Err()
			}
			if len(recs) < backtestPage {
				return nil
			}
			q.After = recs[len(recs)-1].Event.ID
		}
		next = q.After
		return nil
	})
	group.Go(func() error {
		for recs := range pages {
			if err := fn(recs); err != nil {
				return err
			}
		}
		return nil
	})
	err = group.Wait()
	return next, err
}

// backtester compares two engines over recorded calls.
type backtester struct {
	s        *Service
	now, new *engine
	stakes   map[stakeKey]stake
	changes  map[string]*Change
	out      Backtest
}

// stakeKey is all that the rules near a call depend on.
type stakeKey struct{ agent, team, stage, connection, tool string }

// stake is what a trial may change about calls of an agent to a tool.
type stake struct {
	same, gone bool
	need       parts
}

func (s *Service) backtester(t Trial) (*backtester, error) {
	e, c, old, err := s.tried(t)
	if err != nil {
		return nil, err
	}
	trial, _ := build(c, e.ts, old)
	if problems := t.problems(trial.problems); len(problems) > 0 {
		return nil, refuse(problems)
	}
	sum := sha256.Sum256([]byte(e.version + trial.version + e.ts.text()))
	return &backtester{s: s, now: e, new: trial, stakes: map[stakeKey]stake{}, changes: map[string]*Change{},
		out: Backtest{Version: hex.EncodeToString(sum[:8]), Changes: []Change{}}}, nil
}

// tried returns the engine in force, the contents as they are with a trial, and
// what is known of whether they fit the tools.
func (s *Service) tried(t Trial) (*engine, content, verdicts, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, content{}, nil, ErrNotReady
	}
	s.mu.Lock()
	c, old := content{files: maps.Clone(s.content.files), grants: slices.Clone(s.content.grants)}, s.verdicts
	s.mu.Unlock()
	if err := t.known(c); err != nil {
		return nil, content{}, nil, err
	}
	t.apply(&c)
	return e, c, old, nil
}

// known refuses to leave out what is not there: a mistyped name would look like
// a change without consequences.
func (t Trial) known(c content) error {
	for name, text := range t.Files {
		if _, ok := c.files[name]; !ok && text == "" {
			return ErrNotFound.Say("there is no policy file %q to leave out", name)
		}
	}
	for _, name := range t.Revoke {
		if !slices.ContainsFunc(c.grants, func(g Grant) bool { return g.Name == name }) {
			return ErrNoGrant.Say("there is no grant %q to leave out", name)
		}
	}
	return nil
}

func (t Trial) apply(c *content) {
	for name, text := range t.Files {
		if c.files[name] = text; text == "" {
			delete(c.files, name)
		}
	}
	c.grants = slices.DeleteFunc(c.grants, func(g Grant) bool {
		return slices.Contains(t.Revoke, g.Name) || slices.ContainsFunc(t.Grants, func(x Grant) bool { return x.Name == g.Name })
	})
	c.grants = append(c.grants, t.Grants...)
}

// problems are those of what the trial brings, not those that are there already.
func (t Trial) problems(all []Problem) []Problem {
	return slices.DeleteFunc(slices.Clone(all), func(p Problem) bool {
		if name, ok := cutGrant(p.File); ok {
			return !slices.ContainsFunc(t.Grants, func(g Grant) bool { return g.Name == name })
		}
		_, brought := t.Files[p.File]
		return !brought
	})
}

func (s *Service) recordBacktest(ctx context.Context, by audit.Actor, t Trial, w Window) error {
	files := map[string]string{}
	for name, text := range t.Files {
		files[name] = digest(text)
	}
	d := struct {
		Agent  string            `json:"agent,omitzero"`
		Files  map[string]string `json:"files,omitzero"`
		Grants []Grant           `json:"grants,omitzero"`
		Revoke []string          `json:"revoke,omitzero"`
		Since  time.Time         `json:"since,omitzero"`
		Until  time.Time         `json:"until,omitzero"`
	}{w.Agent, files, t.Grants, t.Revoke, w.Since, w.Until}
	detail, err := json.Marshal(d, json.Deterministic(true))
	if err != nil {
		return err
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "policy.backtested", Actor: by, Object: "policy", Detail: detail})
		return nil
	})
}

// page looks at some records and adds to affected those that a changed rule is
// about and that are not in it: contents are read of them alone. Affected by
// another trial they stand there already, in the order of recs.
func (b *backtester) page(affected, recs []audit.Record) []audit.Record {
	var out []audit.Record
	for _, rec := range recs {
		there := len(affected) > 0 && affected[0].Event.ID == rec.Event.ID
		if there {
			affected = affected[1:]
		}
		if b.affects(&rec.Event) || there {
			out = append(out, rec)
		}
	}
	return out
}

// affects reports whether the trial may change what is decided of a call, and
// counts it.
func (b *backtester) affects(ev *audit.Event) bool {
	if ev.Agent == "" || ev.Connection == "" || ev.Tool == "" {
		return false // Countersign's own
	}
	b.out.Calls++
	b.out.Oldest = ev.Time
	st := b.stake(ev)
	if st.gone {
		b.out.Gone++
		return false
	}
	if !st.same {
		b.out.Affected++
	}
	return !st.same
}

// stake tells what the trial may change about a call, for its agent and every
// agent on whose behalf it was made.
func (b *backtester) stake(ev *audit.Event) stake {
	st := b.stakeOf(b.s.recordedAgent(ev), ev)
	for _, a := range b.s.behind(ev) {
		more := b.stakeOf(a, ev)
		st.same, st.need = st.same && more.same, st.need|more.need
	}
	return st
}

func (b *backtester) stakeOf(a Agent, ev *audit.Event) stake {
	key := stakeKey{a.Name, a.Team, a.Stage, ev.Connection, ev.Tool}
	if st, ok := b.stakes[key]; ok {
		return st
	}
	t := b.now.ts.tools[toolKey{ev.Connection, ev.Tool}]
	st := stake{gone: t == nil}
	if t != nil {
		is, need := b.now.near(&a, t)
		would, more := b.new.near(&a, t)
		st.same, st.need = slices.Equal(is, would), need|more
	}
	b.stakes[key] = st
	return st
}

// near names every rule that may be about calls of the tool by a, and what they
// ask for.
func (e *engine) near(a *Agent, t *tool) (says []string, need parts) {
	var room [32]*rule
	w := e.worldOf(a)
	for _, index := range []*index{e.forbids, e.permits} {
		for _, r := range index.candidates(room[:0], t, w.keys) {
			says, need = append(says, r.says()), need|r.needs
			if r.unfitFor(t) {
				says[len(says)-1] += "\nunfit"
			}
		}
	}
	slices.Sort(says)
	return append(says, e.broken), need
}

const unrecorded = needRun | needCaller | needProvenance

// twice is a recorded call decided twice.
type twice struct {
	rec      *audit.Record
	need     parts
	from, to Effect
	by       []string
}

// compare decides recorded calls twice, on every core, and counts in their order
// which come out differently.
func (b *backtester) compare(recs []audit.Record) {
	calls := make([]twice, 0, len(recs))
	for i := range recs {
		rec := &recs[i]
		st := b.stake(&rec.Event)
		switch {
		case st.gone, st.same: // it is here for another trial
			continue
		case !seen(rec) && st.need&needArgs != 0:
			b.out.Unseen++
			continue
		case assumes(&rec.Event, st.need):
			b.out.Assumed++
		}
		calls = append(calls, twice{rec: rec, need: st.need})
	}
	var group sync.WaitGroup
	for part := range slices.Chunk(calls, max(1, (len(calls)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))) {
		group.Go(func() {
			for i := range part {
				b.decide(&part[i])
			}
		})
	}
	group.Wait()
	for i := range calls {
		if c := &calls[i]; c.from != c.to {
			b.count(&c.rec.Event, c.from, c.to, c.by)
		}
	}
}

func (b *backtester) decide(c *twice) {
	reqs := b.s.recorded(c.rec)
	if !seen(c.rec) {
		for i := range reqs {
			reqs[i].unread = true
		}
	}
	c.from, _ = decideAll(b.now, reqs)
	c.to, c.by = decideAll(b.new, reqs)
}

// decideAll decides for every agent that has to be allowed: the least of what
// they are given counts, as on the line.
func decideAll(e *engine, reqs []Request) (effect Effect, by []string) {
	for i := range reqs {
		d := e.decide(&reqs[i])
		if i == 0 || d.Effect < effect {
			effect, by = d.Effect, slices.Concat(d.Policies, d.Grants)
		}
	}
	return effect, by
}

func (b *backtester) count(ev *audit.Event, from, to Effect, by []string) {
	key := strings.Join(append([]string{ev.Agent, ev.Connection, ev.Tool, from.String(), to.String()}, by...), "\x00")
	c := b.changes[key]
	if c == nil && len(b.changes) >= maxChanges {
		key = strings.Join([]string{"", from.String(), to.String()}, "\x00")
		c = b.changes[key]
		if c == nil {
			c = &Change{From: from.String(), To: to.String(), Last: ev.Time}
		}
	} else if c == nil {
		c = &Change{Agent: ev.Agent, Tool: ev.Connection + "/" + ev.Tool, From: from.String(), To: to.String(), By: by, Last: ev.Time}
	}
	b.changes[key] = c
	c.Count++
	c.First = ev.Time // the newest come first
	if len(c.Events) < maxExamples {
		c.Events = append(c.Events, ev.ID)
	}
}

func (b *backtester) finish() {
	for _, c := range b.changes {
		b.out.Changes = append(b.out.Changes, *c)
	}
	slices.SortFunc(b.out.Changes, func(x, y Change) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), strings.Compare(x.Agent, y.Agent), strings.Compare(x.Tool, y.Tool), strings.Compare(x.To, y.To),
			slices.Compare(x.By, y.By))
	})
}
