package detection

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/rates"
)

// askWithin bounds how long a throttled call waits for the store.
const askWithin = 30 * time.Second

// Posture is what is in force for calls of an agent beside locks.
type Posture struct {
	Held      string        // the detection for which every call waits for people; empty: none
	Approvers string        // the group that decides
	Why       string        // the rule's title
	Wait      time.Duration // until a throttled agent may call again; 0: now
}

// postures are the responses that calls ask for, in memory and immutable.
type postures struct {
	held      map[string]*Detection
	throttled map[string]int64 // calls a minute: the fewest that a response lets an agent make
}

func newPostures(active []Detection) *postures {
	p := &postures{held: map[string]*Detection{}, throttled: map[string]int64{}}
	for i := range active {
		d := &active[i]
		switch {
		case d.Agent == "":
		case d.Response == Hold:
			p.held[d.Agent] = d
		case d.Response == Throttle:
			if most, ok := p.throttled[d.Agent]; !ok || d.rate < most {
				p.throttled[d.Agent] = d.rate
			}
		}
	}
	return p
}

// Posture returns what is in force for a call of an agent, in memory. Only for an
// agent that is throttled it asks the store, where all replicas count together, and
// asking counts as a call; the error is that the store cannot be asked.
func (s *Service) Posture(ctx context.Context, agent string) (out Posture, err error) {
	p := s.postures.Load()
	if d := p.held[agent]; d != nil {
		out.Held, out.Approvers, out.Why = d.ID, d.approvers, d.Title
	}
	if most := p.throttled[agent]; most > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin) // a client that leaves has asked all the same
		defer cancel()
		out.Wait, err = s.rates.Take(ctx, false, rates.Use{Key: "throttled " + agent, Rate: rates.Rate{Calls: most, Per: time.Minute}})
	}
	return out, err
}
