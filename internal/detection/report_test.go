package detection

import (
	"encoding/json/v2"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

func monthReport(t *testing.T, rate float64, contained []time.Duration) string {
	rules, err := enforcing()
	if err != nil {
		t.Fatal(err)
	}
	m := newMonth(50, rate)
	m.work()
	m.controls()
	v := m.run(rules, m.attacks())
	var b strings.Builder
	fmt.Fprintf(&b, `# The detection bench

A simulated month of %d agents, %d events as the line records them, through the engine with every built-in rule enforcing ([what they are](detection.md)); made by `+"`make detection-bench`"+`. Attacks are ours, and
honest controls are among the agents' work: a batch job at a new hour, a new deployment (another model, client and region beside the old one for an hour), a newcomer whose requests fail, and a load test
of twenty calls a second from three networks. It shows what the rules do with these; it is no proof of what they do with others.

| attack | detected by | time to detect | the attacker's calls until then |
|---|---|---|---|
`, len(m.bots)+1, v.events)
	for _, c := range v.caught {
		if c.rule == "" {
			fmt.Fprintf(&b, "| %s | not detected | | %d, all |\n", c.name, c.calls)
			continue
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %d |\n", c.name, c.rule, c.after.Round(time.Second), c.before)
	}
	n := 0
	for _, k := range v.findings {
		n += k
	}
	acts := 0
	for _, k := range v.acts {
		acts += k
	}
	fmt.Fprintf(&b, `
"Time to detect" is from the attack's first call to the event that decided. Whoever leaks slowly, from the agent's own network, under every limit, is not detected here; budgets and the provider's bill are for that.

| honest agents | |
|---|---|
| false findings | %d, which is %.3f for each agent and week (the same thing on the same day is one) |
| of which acted (slowed down or stopped somebody honest) | %d |
| hints, which add up and bother nobody | %d |
`, n, float64(n)/v.weeks, acts, v.hints)
	for _, rule := range sortedKeys(v.findings) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", rule, strings.ReplaceAll(strings.Join(v.honest[rule], "; "), "|", "/"))
	}
	fmt.Fprintf(&b, `
From the deciding event until the credential is refused, through a real log on SQLite, the follower and a lock, %d times on a busy machine of two cores: median %s, worst %s.
`, len(contained), contained[len(contained)/2].Round(100*time.Microsecond), contained[len(contained)-1].Round(100*time.Microsecond))
	t.Logf("%d events in %v: %.0f a second", v.events, v.took, float64(v.events)/v.took.Seconds())
	return b.String()
}

// BenchmarkRules evaluates events of the month through all rules; one op is one event.
func BenchmarkRules(b *testing.B) {
	rules, err := enforcing()
	if err != nil {
		b.Fatal(err)
	}
	m := newMonth(50, 0.2)
	m.work()
	raw := make([][]byte, len(m.events))
	e := newEngine(rules, 3, nil)
	for i := range m.events { // every key is there, as it is after a while
		e.Observe(&m.events[i])
		m.events[i].Time = m.events[i].Time.AddDate(0, 1, 0)
	}
	b.Run("decoded", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			e.Observe(&m.events[i%len(m.events)])
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("from records", func(b *testing.B) {
		for i := range raw {
			raw[i] = record(&m.events[i])
		}
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			ev, err := audit.DecodeRecord(raw[i%len(raw)])
			if err != nil {
				b.Fatal(err)
			}
			e.Observe(&ev)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
}

func record(ev *audit.Event) []byte {
	ev.Schema = audit.Schema
	b, err := json.Marshal(ev)
	if err != nil {
		panic(err) // an event can be written
	}
	return b
}
