package detection

import (
	"fmt"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

func one(t *testing.T, name string) (*Engine, *rule) {
	t.Helper()
	rules, err := assemble(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if r.ID == name {
			return newEngine([]*rule{r}, 5, nil), r
		}
	}
	t.Fatalf("no rule %s", name)
	return nil, nil
}

func asks(e *Engine, at time.Time, model string) bool {
	return len(e.Observe(&audit.Event{ID: "evt_1", Time: at, Type: audit.CallIntent, Agent: "a", Credential: "key_1", Detail: []byte(`{"model":"` + model + `"}`)})) > 0
}

// Whoever teaches a new agent's baseline many models can teach it no more than
// the limit: the hop after the learning is seen.
func TestAPoisonedBaseline(t *testing.T) {
	e, r := one(t, "model.fan-out")
	at := traceStart
	for day := range 12 { // nine models at once, every two hours: less than it takes while learning
		for i := range 12 {
			for k := range 9 {
				if asks(e, at.Add(time.Duration(day)*24*time.Hour+time.Duration(i)*2*time.Hour+time.Duration(k)*time.Second), fmt.Sprintf("m%d", k)) && day < 7 {
					t.Fatal("it fired while it was being poisoned")
				}
			}
		}
	}
	most := r.limit("models").value
	if peak := e.keys[byAgent]["a"].rules[0].Known[0].Peak; peak > most {
		t.Errorf("it learned that %v is normal; the limit is %v", peak, most)
	}
	fired := false
	for k := range 14 {
		fired = asks(e, at.AddDate(0, 0, 12).Add(time.Duration(k)*time.Second), fmt.Sprintf("m%d", k)) || fired
	}
	if !fired {
		t.Error("poisoned: fourteen models at once pass")
	}
}

// Three replicas, one five minutes ahead and one five behind, one key on all of
// them: what it does in a minute is counted as a minute's.
func TestClocksThatDiffer(t *testing.T) {
	for _, offsets := range [][]time.Duration{{0, 5 * time.Minute, -5 * time.Minute}, {0, -14 * time.Minute, 0}, {0, 0, 0}} {
		e, _ := one(t, "model.fan-out")
		now := traceStart
		fired := false
		for k := range 12 {
			now = now.Add(time.Second)
			e.bound = now.UnixMicro()
			fired = asks(e, now.Add(offsets[k%3]), fmt.Sprintf("m%d", k)) || fired
		}
		if !fired {
			t.Errorf("%v: the hop over replicas was not seen", offsets)
		}
		for k := range 3 { // and an honest key is not blamed for the clocks
			now = now.Add(time.Hour)
			e.bound = now.UnixMicro()
			if asks(e, now.Add(offsets[k%3]), "m0") {
				t.Errorf("%v: fired at an honest call", offsets)
			}
		}
	}
}

// A thief who stays just under each limit is not seen: the documentation says so,
// and a change that makes it false is to change that too.
func TestASlowLeakIsNotSeen(t *testing.T) {
	rules, err := enforcing()
	if err != nil {
		t.Fatal(err)
	}
	m := newMonth(11, 0.2)
	m.work()
	a := &attack{key: m.bots[0].key, began: m.at(20, 9)}
	for i := range 400 {
		m.call(m.bots[0], a.began.Add(time.Duration(i)*20*time.Minute), gpt, nil)
	}
	a2 := *a
	a2.key = "none"
	v := m.run(rules, []*attack{a, &a2, &a2, &a2, &a2, &a2})
	if v.caught[0].rule != "" {
		t.Errorf("caught by %s: say so in docs/detection.md", v.caught[0].rule)
	}
}

// What is kept is bounded, however many identities an attacker has.
func TestStateIsBounded(t *testing.T) {
	e, _ := one(t, "denied.burst")
	for i := range maxKeys + 500 {
		e.Observe(&audit.Event{ID: "evt_1", Time: traceStart.Add(time.Duration(i) * time.Millisecond), Type: audit.CallDenied, Credential: fmt.Sprintf("key_%d", i), Tool: fmt.Sprint(i)})
	}
	if n := len(e.keys[byCredential]); n > maxKeys {
		t.Errorf("%d keys", n)
	}
	for i := range 1000 { // and of one key
		e.Observe(&audit.Event{ID: fmt.Sprintf("evt_%d", i), Time: traceStart.Add(time.Duration(i) * time.Second), Type: audit.CallDenied, Agent: "a", Credential: "key_x", Tool: fmt.Sprint(i)})
	}
	body, err := e.encode(e.keys[byCredential]["key_x"])
	if err != nil || len(body) > 4096 {
		t.Errorf("%d bytes of state: %v", len(body), err)
	}
}

// A batch of a lane that has more must not run ahead of the other lanes.
func TestLanesAreReadInTheOrderOfTheirTimes(t *testing.T) {
	at := func(lane int64, seconds ...int) (out []audit.Record) {
		for i, s := range seconds {
			out = append(out, audit.Record{Lane: lane, SN: int64(i + 1), Event: audit.Event{Time: traceStart.Add(time.Duration(s) * time.Second)}})
		}
		return out
	}
	got := merge(map[int64][]audit.Record{1: at(1, 1, 2, 3), 2: at(2, 1, 50, 99)}, 3)
	last := time.Time{}
	for _, r := range got {
		if r.Event.Time.Before(last) || r.Event.Time.After(traceStart.Add(3*time.Second)) {
			t.Errorf("lane %d: %v", r.Lane, r.Event.Time)
		}
		last = r.Event.Time
	}
	if len(got) != 4 {
		t.Errorf("%d records", len(got))
	}
	// A clock that goes back holds up nobody.
	if got := merge(map[int64][]audit.Record{1: at(1, 60, 2, 3), 2: at(2, 1, 50, 99)}, 3); len(got) != 5 {
		t.Errorf("%d records when a clock went back", len(got))
	}
}
