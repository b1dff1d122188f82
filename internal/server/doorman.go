package server

import (
	"encoding/json/v2"
	"sync"

	"golang.org/x/time/rate"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// doorman records who was turned away from the API. A flood of them must not
// fill the log: what is over the rate is counted and told with the next one.
type doorman struct {
	log   *audit.Log
	limit *rate.Limiter

	mu   sync.Mutex
	more int64
}

// A refusal a second is recorded, and up to 30 at once.
func newDoorman(log *audit.Log) *doorman {
	return &doorman{log: log, limit: rate.NewLimiter(1, 30)}
}

func (d *doorman) refused(c rest.Caller, op rest.Op, p *rest.Problem) {
	d.mu.Lock()
	if !d.limit.Allow() {
		d.more++
		d.mu.Unlock()
		return
	}
	more := d.more
	d.more = 0
	d.mu.Unlock()
	detail, err := json.Marshal(struct {
		Code    string `json:"code"`
		Request string `json:"request"`
		More    int64  `json:"unrecorded_before,omitzero"`
	}{p.Code, p.Request, more})
	if err != nil {
		return // strings and a number: it does not happen
	}
	d.log.Later(audit.Event{Type: audit.AuthRefused, Actor: audit.Person(c.ID, c.Name), Remote: c.Remote, Credential: c.Credential,
		Object: "api/" + op.Method + " " + op.Path, Detail: detail})
}
