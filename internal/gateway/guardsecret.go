package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/secrets"
)

// passFor is how long one record stands for the use of a guardrail service's
// credential: it is asked about every call, and its use need not be told as often.
const passFor = time.Minute

// toolGuard is what the events of that use name.
const toolGuard = "guardrail"

// pass is the receipt for the use of a credential, and until when it is good.
type pass struct {
	call    string
	receipt audit.Receipt
	until   time.Time
}

// guardCredential puts the secret that a guardrail service is to get on a question
// to it. A secret that may not be sent there is not.
func (g *Gateway) guardCredential(ctx context.Context, call *Call, s connections.Guard, req *http.Request) (use secrets.Use, err error) {
	if s.Secret == "" {
		return use, nil
	}
	p, err := g.guardPass(ctx, call.Connection, s.Secret)
	if err != nil {
		return use, err
	}
	use = secrets.Use{Call: p.call, Secret: s.Secret, Connection: call.Connection.Name, Agent: call.Who.Agent.Name, Host: req.URL.Host}
	value, err := g.o.Injector.Inject(ctx, p.receipt, use)
	if err != nil {
		return secrets.Use{}, err
	}
	defer value.Wipe()
	req.Header.Set("Authorization", "Bearer "+string(value.Expose()))
	return use, nil
}

// guardPass returns a receipt for the use of a connection's credential for its
// guardrail service: the one of the last minute, or that of a new record.
func (g *Gateway) guardPass(ctx context.Context, c connections.Connection, secret string) (pass, error) {
	key, now := c.ID+"/"+secret, g.o.Now()
	g.guards.mu.Lock()
	defer g.guards.mu.Unlock()
	if p, ok := g.guards.passes[key]; ok && now.Before(p.until) {
		return p, nil
	}
	p := pass{call: id.New(id.Call), until: now.Add(passFor)}
	ev := audit.Event{Type: audit.CallIntent, Actor: audit.System, Call: p.call, Connection: c.Name, Tool: toolGuard, Object: "secret/" + secret, Owner: c.Owner,
		Reason: "the guardrail service of the connection is asked with this secret, for a minute"}
	var err error
	if p.receipt, err = g.o.Ledger.Intent(ctx, ev); err != nil {
		return pass{}, err
	}
	g.o.Ledger.Outcome(p.receipt, audit.Event{Actor: audit.System, Outcome: &audit.Outcome{Status: audit.Succeeded}})
	g.guards.passes[key] = p
	return p, nil
}
