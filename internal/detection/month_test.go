package detection

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
)

// The simulated month: agents at work, honest controls among them, and attacks on
// some of their credentials. Everything is made of events as the line records them.

// bot is an agent of the month.
type bot struct {
	name, stage, key, network, client string
	models                            []string
	scripts                           []string
	hours                             [2]int  // of the day at which it works
	weekend                           bool    // it works at weekends, too
	daily                             float64 // calls on a day
	from, until                       int     // the days on which it begins, and ends; 0: it does not
	list                              bool    // it lists models when it starts
	proposals                         bool    // its tool calls are proposed by models
	cost                              float64 // of a call
}

// month makes events.
type month struct {
	rng    *rand.Rand
	start  time.Time
	days   int
	events []audit.Event
	bots   []*bot
}

// attack is a course of events on one credential.
type attack struct {
	name, key, agent string
	began            time.Time
	calls            int // that the attacker made
	want             bool
}

const gpt, claude = "gpt-5", "claude-haiku-4-5"

func newMonth(agents int, rate float64) *month {
	m := &month{rng: rand.New(rand.NewPCG(7, uint64(agents))), start: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), days: 30}
	for i := range agents {
		b := &bot{name: fmt.Sprintf("agent-%02d", i), stage: "production", key: fmt.Sprintf("key_%02d", i), network: fmt.Sprintf("10.%d.7.", i), client: "OpenAI/Python 2.1", models: []string{gpt}, scripts: []string{"latin"}, hours: [2]int{7, 18}, daily: 120 * rate, cost: 0.004}
		switch i % 5 {
		case 1: // around the clock
			b.hours, b.weekend, b.daily = [2]int{0, 24}, true, 260*rate
		case 2: // a batch at night
			b.hours, b.weekend, b.daily, b.models = [2]int{2, 3}, true, 400*rate, []string{gpt, "text-embedding-3-small"}
		case 3: // for customers everywhere
			b.scripts, b.hours, b.weekend = []string{"latin", "latin", "cyrillic", "han", "arabic"}, [2]int{0, 24}, true
			b.models = []string{claude, gpt}
		case 4: // with tools, and developers who use it from two places
			b.proposals, b.client, b.list = true, "anthropic-sdk-typescript/0.9", i%2 == 0
			if i%10 == 9 {
				b.stage, b.models = "development", []string{gpt, "gpt-5-mini", claude}
			}
		}
		m.bots = append(m.bots, b)
	}
	m.bots[10].until = 18 // another is deployed
	return m
}

// at is an instant of the month.
func (m *month) at(day int, hour float64) time.Time {
	return m.start.AddDate(0, 0, day).Add(time.Duration(hour * float64(time.Hour)))
}

// call adds the intent and the outcome of a call of a model.
func (m *month) call(b *bot, at time.Time, model string, change func(intent, outcome *audit.Event)) {
	in := audit.Event{ID: id.At(id.Event, at), Time: at, Type: audit.CallIntent, Actor: audit.Actor{Kind: audit.KindAgent, Name: b.name}, Agent: b.name, Stage: b.stage, Credential: b.key, Connection: "models", Tool: "chat.completions", Effect: "read",
		Remote: b.network + fmt.Sprint(1+m.rng.IntN(9)), Client: b.client, Decision: &audit.Decision{Effect: "allow"}, Detail: []byte(`{"model":"` + model + `"}`)}
	out := in
	out.Time, out.Type, out.Remote, out.Client, out.Decision = at.Add(time.Duration(200+m.rng.IntN(2000))*time.Millisecond), audit.CallOutcome, "", "", nil
	out.ID = id.At(id.Event, out.Time)
	out.Detail = []byte(`{"model":"` + model + `","script":"` + b.scripts[m.rng.IntN(len(b.scripts))] + `"}`)
	out.Outcome = &audit.Outcome{Status: audit.Succeeded, Code: 200, Usage: &audit.Usage{Model: model, Input: 900, Output: 250, Cost: int64(b.cost * 1e6)}}
	if m.rng.IntN(200) == 0 { // providers fail
		out.Outcome = &audit.Outcome{Status: audit.Failed, Code: []int{429, 500, 400}[m.rng.IntN(3)]}
	}
	if change != nil {
		change(&in, &out)
	}
	m.events = append(m.events, in, out)
	if b.proposals && m.rng.IntN(3) == 0 {
		tool := in
		tool.Time = at.Add(3 * time.Second)
		tool.ID, tool.Connection, tool.Tool, tool.Detail = id.At(id.Event, tool.Time), "crm", fmt.Sprintf("tool%d", m.rng.IntN(4)), []byte(`{"proposed":true}`)
		m.events = append(m.events, tool)
	}
}

// work adds what the agents do in the month.
func (m *month) work() {
	for _, b := range m.bots {
		for day := b.from; day < m.days && (b.until == 0 || day < b.until); day++ {
			if wd := m.at(day, 0).Weekday(); !b.weekend && (wd == time.Saturday || wd == time.Sunday) {
				continue
			}
			n := int(b.daily * (0.6 + 0.8*m.rng.Float64()))
			for range n {
				hour := float64(b.hours[0]) + m.rng.Float64()*float64(b.hours[1]-b.hours[0])
				m.call(b, m.at(day, hour), b.models[m.rng.IntN(len(b.models))], nil)
			}
			if b.list {
				m.models(b, m.at(day, float64(b.hours[0])))
			}
		}
	}
	m.people()
}

// models adds a call that lists models.
func (m *month) models(b *bot, at time.Time) {
	m.events = append(m.events, audit.Event{ID: id.At(id.Event, at), Time: at, Type: audit.CallIntent, Agent: b.name, Stage: b.stage, Credential: b.key, Connection: "models", Tool: "models", Effect: "read", Remote: b.network + "3", Client: b.client})
}

// people adds what people do: approvals, now and then a tool that changed.
func (m *month) people() {
	for day := range m.days {
		for range 6 {
			at := m.at(day, 8+9*m.rng.Float64())
			m.events = append(m.events, audit.Event{ID: id.At(id.Event, at), Time: at, Type: "approval.granted", Actor: audit.Person("usr_1", "ada"), Agent: "agent-04"})
		}
	}
}

// controls adds what honest people do that may look like an attack.
func (m *month) controls() {
	// A batch job that is new, at a new hour: 2,000 calls in ten minutes.
	batch := m.bots[5]
	for i := range 2000 {
		m.call(batch, m.at(20, 22).Add(time.Duration(i)*300*time.Millisecond), gpt, nil)
	}
	// A new deployment: another model, a new client, another region; both run for an hour.
	old := m.bots[10]
	next := *old
	next.network, next.client, next.models = "10.200.1.", "httpx/0.28", []string{"gpt-5.1"}
	for i := range 60 {
		m.call(old, m.at(18, 10).Add(time.Duration(i)*time.Minute), gpt, nil)
		m.call(&next, m.at(18, 10).Add(time.Duration(i)*time.Minute+10*time.Second), "gpt-5.1", nil)
	}
	for day := 19; day < m.days; day++ {
		for i := range 50 {
			m.call(&next, m.at(day, 8).Add(time.Duration(i)*10*time.Minute), "gpt-5.1", nil)
		}
	}
	// Onboarding: a developer begins, with all that goes wrong.
	dev := &bot{name: "newcomer", stage: "development", key: "key_new", network: "10.77.7.", client: "OpenAI/Python 2.1", models: []string{gpt}, scripts: []string{"latin"}, cost: 0.004}
	m.models(dev, m.at(15, 9))
	for i, model := range []string{gpt, "gpt-5-mini", "gpt5", gpt, claude, gpt, gpt} {
		m.call(dev, m.at(15, 9.1).Add(time.Duration(i)*40*time.Second), model, func(in, out *audit.Event) {
			if i < 5 {
				out.Outcome = &audit.Outcome{Status: audit.Failed, Code: 400}
			}
			if i == 1 || i == 3 {
				in.Detail = []byte(`{"model":"` + model + `","odd":"messages"}`)
			}
		})
	}
	for i := range 80 {
		m.call(dev, m.at(15+i/20, 10+float64(i%20)/4), gpt, nil)
	}
	// A load test: three generators at once, twenty calls a second for ten minutes.
	load := *m.bots[15]
	for i := range 12_000 {
		g := load
		g.network, g.client = fmt.Sprintf("10.88.%d.", i%3), "k6/0.50"
		m.call(&g, m.at(22, 14).Add(time.Duration(i)*50*time.Millisecond), gpt, nil)
	}
}

// attacks adds the attacks, each on an agent of its own.
func (m *month) attacks() []*attack {
	add := func(name string, b *bot, day int, hour float64, want bool, do func(a *attack, thief bot)) *attack {
		a := &attack{name: name, key: b.key, agent: b.name, began: m.at(day, hour), want: want}
		thief := *b
		thief.network, thief.client, thief.scripts, thief.proposals = "203.0.113.", "python-requests/2.32", []string{"latin"}, false
		do(a, thief)
		return a
	}
	made := func(a *attack, b *bot, after time.Duration, model string, change func(in, out *audit.Event)) {
		a.calls++
		m.call(b, a.began.Add(after), model, change)
	}
	odd := func(in, out *audit.Event) {
		in.Detail = slices.Replace(slices.Clone(in.Detail), len(in.Detail)-1, len(in.Detail), []byte(`,"odd":"max_tokens"}`)...)
		out.Outcome = &audit.Outcome{Status: audit.Failed, Code: 400}
	}
	unused := &bot{name: "leaked", stage: "production", key: "key_leaked", network: "10.99.7.", client: "OpenAI/Python 2.1", models: []string{gpt}, scripts: []string{"latin"}}
	return []*attack{
		add("key probing, a key that was never used", unused, 25, 3, true, func(a *attack, t bot) {
			for i := range 10 {
				made(a, &t, time.Duration(i)*time.Second, fmt.Sprintf("model-%d", i), odd)
			}
		}),
		add("key probing, a key at work", m.bots[20], 25, 3, true, func(a *attack, t bot) {
			for i := range 10 {
				made(a, &t, time.Duration(i)*20*time.Second, fmt.Sprintf("model-%d", i), odd)
			}
		}),
		add("enumerate, then invoke", m.bots[25], 25, 11, true, func(a *attack, t bot) {
			m.models(&t, a.began)
			for i := range 40 {
				made(a, &t, time.Duration(60+45*i)*time.Second, []string{gpt, claude, "gpt-5-pro", "o9"}[i%4], nil)
			}
		}),
		add("resold key", m.bots[30], 24, 12, true, func(a *attack, t bot) {
			for i := range 300 {
				c := t
				c.network, c.client = fmt.Sprintf("198.51.%d.", i%40), []string{"curl/8", "axios/1.7", "okhttp/4", "Go-http-client/2", "SillyTavern/1"}[i%5]
				c.scripts = []string{"latin", "cyrillic", "han", "hangul"}
				made(a, &c, time.Duration(i)*20*time.Second, gpt, func(_, out *audit.Event) {
					if i%30 == 0 {
						out.Detail = []byte(`{"canned":true,"model":"` + gpt + `","script":"latin"}`)
					}
				})
			}
		}),
		add("model hop, from the agent's own network", m.bots[35], 26, 11, true, func(a *attack, t bot) {
			t.network, t.client = m.bots[35].network, m.bots[35].client
			for i := range 12 {
				made(a, &t, time.Duration(i)*4*time.Second, fmt.Sprintf("hop-%d", i), nil)
			}
		}),
		add("logging removed, then a burst", m.bots[40], 27, 11, true, func(a *attack, t bot) {
			t.network, t.client = m.bots[40].network, m.bots[40].client
			at := a.began.Add(-5 * time.Minute)
			m.events = append(m.events, audit.Event{ID: id.At(id.Event, at), Time: at, Type: "retention.changed", Actor: audit.Person("usr_9", "mallory"), Object: "log"})
			for i := range 2000 {
				made(a, &t, time.Duration(i)*100*time.Millisecond, gpt, nil)
			}
		}),
		add("slow leak", m.bots[45], 21, 9, false, func(a *attack, t bot) {
			t.network, t.client = m.bots[45].network, m.bots[45].client
			for i := range 200 {
				made(a, &t, time.Duration(i)*time.Hour/2, gpt, nil)
			}
		}),
	}
}

// caught is what came of an attack.
type caught struct {
	*attack
	rule   string // that acted first
	after  time.Duration
	before int // calls that the attacker made until then
}

// verdictOf is what came of a month.
type verdictOf struct {
	events   int
	took     time.Duration
	caught   []caught
	findings map[string]int // false ones, by rule
	acts     map[string]int // false acts, by rule
	hints    int            // of severity info, on honest agents
	weeks    float64        // agents times weeks
	honest   map[string][]string
}

// run evaluates the month by the engine, every rule enforcing. An attacked
// credential is out of the world from the moment it is locked.
func (m *month) run(rules []*rule, attacks []*attack) verdictOf {
	slices.SortStableFunc(m.events, func(a, b audit.Event) int { return a.Time.Compare(b.Time) })
	e := newEngine(rules, 3, nil)
	v := verdictOf{events: len(m.events), findings: map[string]int{}, acts: map[string]int{}, honest: map[string][]string{}, weeks: float64(len(m.bots)+1) * float64(m.days) / 7}
	by := map[string]*attack{}
	for _, a := range attacks {
		by[a.key] = a
	}
	got := map[string]*caught{}
	made, seen := map[string]int{}, map[string]bool{}
	began := time.Now()
	for i := range m.events {
		ev := &m.events[i]
		a := by[ev.Credential]
		attacked := a != nil && !ev.Time.Before(a.began)
		if attacked && ev.Type == audit.CallIntent {
			made[a.key]++
		}
		for _, s := range e.Observe(ev) {
			if s.Rule == "log.reduced" {
				attacked, a = true, attacks[5]
			}
			switch {
			case attacked && s.rule.Response != Notify:
				if got[a.key] == nil {
					got[a.key] = &caught{attack: a, rule: s.Rule, after: ev.Time.Sub(a.began), before: made[a.key]}
				}
			case attacked:
			case s.rule.Severity == findings.Info:
				v.hints++
			case seen[s.Rule+s.Object()+ev.Time.Format("0102")]: // it brings the finding up to date
			default:
				seen[s.Rule+s.Object()+ev.Time.Format("0102")] = true
				v.findings[s.Rule]++
				v.honest[s.Rule] = append(v.honest[s.Rule], s.Object()+" "+ev.Time.Format("01-02 15:04")+" "+s.Seen+" / "+s.Normal)
				if s.rule.Response != Notify {
					v.acts[s.Rule]++
				}
			}
		}
	}
	v.took = time.Since(began)
	for _, a := range attacks {
		c := got[a.key]
		if c == nil {
			c = &caught{attack: a}
		}
		v.caught = append(v.caught, *c)
	}
	return v
}

func enforcing() ([]*rule, error) {
	rules, err := assemble(nil, nil, nil)
	for _, r := range rules {
		r.mode = Enforce
	}
	return rules, err
}
