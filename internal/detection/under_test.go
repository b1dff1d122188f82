package detection

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
)

// thief calls with an agent's key after the agent has worked for three weeks.
type thief struct {
	e     *Engine
	at    time.Time
	event int
	found []string // rules that told or did something
	hints []string // rules that only add up
}

func newThief(t *testing.T) *thief {
	t.Helper()
	rules, err := enforcing()
	if err != nil {
		t.Fatal(err)
	}
	th := &thief{e: newEngine(rules, 3, nil), at: traceStart}
	for range 21 * 24 { // as the agent works: one model, one place, now and then something is refused
		th.call(time.Hour, nil)
		th.ends("latin", 0.01)
		th.tool(true)
	}
	if len(th.found) > 0 {
		t.Fatalf("an honest agent is blamed: %v", th.found)
	}
	th.hints = nil
	return th
}

func (th *thief) see(ev audit.Event) {
	th.event++
	ev.ID, ev.Time, ev.Agent, ev.Stage, ev.Credential = fmt.Sprint("evt_", th.event), th.at, "bot", "production", "key_1"
	for _, s := range th.e.Observe(&ev) {
		if s.rule.Severity == findings.Info {
			th.hints = append(th.hints, s.Rule)
		} else {
			th.found = append(th.found, s.Rule)
		}
	}
}

// call is a call of a model, some time after what was before.
func (th *thief) call(after time.Duration, change func(ev *audit.Event)) {
	th.at = th.at.Add(after)
	ev := audit.Event{Type: audit.CallIntent, Connection: "models", Tool: "chat.completions", Remote: "10.0.0.1", Client: "OpenAI/1.2", Detail: []byte(`{"model":"gpt-5"}`)}
	if change != nil {
		change(&ev)
	}
	th.see(ev)
}

func (th *thief) ends(script string, cost float64) {
	th.see(audit.Event{Type: audit.CallOutcome, Connection: "models", Tool: "chat.completions", Detail: []byte(`{"model":"gpt-5","script":"` + script + `"}`),
		Outcome: &audit.Outcome{Status: audit.Succeeded, Code: 200, Usage: &audit.Usage{Model: "gpt-5", Input: 10, Output: 10, Cost: int64(cost * 1e6)}}})
}

func (th *thief) tool(proposed bool) {
	th.see(audit.Event{Type: audit.CallIntent, Connection: "crm", Tool: "read", Remote: "10.0.0.1", Client: "OpenAI/1.2", Detail: fmt.Appendf(nil, `{"proposed":%v}`, proposed)})
}

func model(name string) func(ev *audit.Event) {
	return func(ev *audit.Event) { ev.Detail = []byte(`{"model":"` + name + `"}`) }
}

// Whoever stays just under a threshold is not seen, one rule for one: that is what a
// threshold is. It is written down here, so that nobody takes it for detected. Who does
// several unusual things is caught, because they add up.
func TestJustUnderEachThreshold(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(th *thief)
		want string // the rule that catches it; empty: none
	}{
		"four models a minute, for hours": {func(th *thief) {
			for i := range 4 * 180 {
				th.call(15*time.Second, model(fmt.Sprintf("m%d", i%4)))
			}
		}, ""},
		"refused 29 times a minute, with five tools": {func(th *thief) {
			for i := range 29 * 60 {
				th.at = th.at.Add(2100 * time.Millisecond)
				th.see(audit.Event{Type: audit.CallDenied, Connection: "crm", Tool: fmt.Sprint("t", i%5), Remote: "10.0.0.1", Decision: &audit.Decision{Code: "policy_denied", Effect: "deny"}})
			}
		}, ""},
		"a prompt by which keys are tried, each 70 minutes": {func(th *thief) {
			for range 48 {
				th.call(70*time.Minute, nil)
				th.see(audit.Event{Type: audit.CallOutcome, Detail: []byte(`{"canned":true,"model":"gpt-5","script":"latin"}`), Outcome: &audit.Outcome{Status: audit.Succeeded, Code: 200}})
			}
		}, ""},
		"two scripts with two clients": {func(th *thief) {
			for i := range 200 {
				th.call(10*time.Minute, func(ev *audit.Event) { ev.Client = []string{"OpenAI/1.2", "curl/8"}[i%2] })
				th.ends([]string{"latin", "cyrillic"}[i%2], 0.01)
			}
		}, ""},
		"59 calls a minute after less is recorded": {func(th *thief) {
			th.see(audit.Event{Type: "retention.changed", Actor: audit.Person("usr_1", "mallory")})
			for range 59 * 25 {
				th.call(1050*time.Millisecond, nil)
			}
		}, ""},
		"two calls in ten minutes that nobody proposed": {func(th *thief) {
			for range 100 {
				th.at = th.at.Add(6 * time.Minute)
				th.tool(false)
			}
		}, ""},
		"24 an hour": {func(th *thief) {
			for range 48 * 4 {
				th.call(15*time.Minute, nil)
				th.ends("latin", 5.9)
			}
		}, ""},
		"a new network each hour, and nothing else": {func(th *thief) {
			for i := range 48 {
				th.call(time.Hour, func(ev *audit.Event) { ev.Remote = fmt.Sprintf("198.51.%d.1", i) })
			}
		}, ""},
		"a new network, client and model each hour": {func(th *thief) {
			for i := range 4 {
				th.call(61*time.Minute, func(ev *audit.Event) {
					ev.Remote, ev.Client, ev.Detail = fmt.Sprintf("198.51.%d.1", i), fmt.Sprintf("client-%c", 'a'+i), fmt.Appendf(nil, `{"model":"new-%d"}`, i)
				})
			}
		}, "signals.together"},
		"impossible parameters once, from a new network with a new client": {func(th *thief) {
			th.call(10*time.Minute, func(ev *audit.Event) {
				ev.Remote, ev.Client, ev.Detail = "198.51.1.1", "curl/8", []byte(`{"model":"gpt-5","odd":"max_tokens"}`)
			})
		}, "signals.together"},
	} {
		t.Run(name, func(t *testing.T) {
			th := newThief(t)
			c.do(th)
			caught := slices.DeleteFunc(th.found, func(rule string) bool { return c.want != "" && rule != c.want })
			if c.want == "" && len(caught) > 0 {
				t.Errorf("caught by %v: say so here and in docs/detection.md", caught)
			}
			if c.want != "" && len(caught) == 0 {
				t.Errorf("not caught; hints %v", th.hints)
			}
		})
	}
}
