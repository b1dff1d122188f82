package detection

import (
	"sync"
	"time"
)

// Posture is what is in force for calls of an agent beside locks.
type Posture struct {
	Held      string        // the detection for which every call waits for people; empty: none
	Approvers string        // the group that decides
	Why       string        // the rule's title
	Wait      time.Duration // until a throttled agent may call again; 0: now
}

// postures are the responses that calls ask for, in memory and immutable but for
// the counts of throttled agents.
type postures struct {
	held      map[string]*Detection
	throttled map[string]*throttle
}

// throttle lets an agent make so many calls a minute on this replica.
type throttle struct {
	rate int64
	mu   sync.Mutex
	from time.Time
	made int64
}

// newPostures keeps the counts of throttles that stay.
func newPostures(active []Detection, before *postures) *postures {
	p := &postures{held: map[string]*Detection{}, throttled: map[string]*throttle{}}
	for i := range active {
		d := &active[i]
		switch {
		case d.Agent == "":
		case d.Response == Hold:
			p.held[d.Agent] = d
		case d.Response == Throttle:
			t := &throttle{rate: d.rate}
			if before != nil && before.throttled[d.Agent] != nil {
				t = before.throttled[d.Agent]
			}
			p.throttled[d.Agent] = t
		}
	}
	return p
}

// Posture returns what is in force for a call of an agent. It works in memory;
// asking counts as a call.
func (s *Service) Posture(agent string) (out Posture) {
	p := s.postures.Load()
	if len(p.held)+len(p.throttled) == 0 {
		return out
	}
	if d := p.held[agent]; d != nil {
		out.Held, out.Approvers, out.Why = d.ID, d.approvers, d.Title
	}
	if t := p.throttled[agent]; t != nil {
		out.Wait = t.take(s.o.Now())
	}
	return out
}

func (t *throttle) take(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	passed := now.Sub(t.from)
	if passed >= time.Minute || passed < 0 {
		t.from, t.made, passed = now, 0, 0
	}
	if t.made >= t.rate {
		return time.Minute - passed
	}
	t.made++
	return 0
}
