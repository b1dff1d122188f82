package gateway

import (
	"encoding/json/v2"
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/releases"
)

// Releases says what an agent's release includes; releases.Service is one.
type Releases interface {
	Check(q *releases.Question) (releases.Bound, error)
	Stands(agent string, b releases.Bound) error
	Shows(agent, connection, tool string) bool
}

// byUndo is the kind of credential by which a person takes back what an agent
// did: a release does not bind that, policy does.
const byUndo = "undo"

// released refuses what the agent's release does not include: a tool, a changed
// definition, a model, a system prompt.
func (g *Gateway) released(call *Call) (verdict, bool) {
	if g.o.Releases == nil || call.Who.Agent.Name == "" {
		return verdict{}, false
	}
	q := releases.Question{
		Agent: call.Who.Agent.Name, Stage: call.Who.Agent.Stage, Run: call.Run,
		Connection: call.Connection.Name, Tool: call.Tool.Name, Digest: call.Tool.Digest, Effect: call.Tool.Effect,
		Plumbing: call.Implied != nil, Free: call.Who.Credential.Kind == byUndo,
	}
	if call.Connection.Kind == connections.LLM {
		q.Model = call.model()
		if call.Said != nil && !silentTool(call.Tool.Name) {
			q.Prompt = call.instructions
		}
	}
	var err error
	if call.release, err = g.o.Releases.Check(&q); err == nil {
		return verdict{}, false
	}
	public := fault.Public(err)
	return verdict{effect: policy.Deny, code: public.Code, reason: public.Message, record: audit.Decision{Effect: policy.Deny.String(), Reason: public.Message}}, true
}

// stands says why a call may not go on: its release was rolled back.
func (g *Gateway) stands(call *Call) error {
	if g.o.Releases == nil {
		return nil
	}
	return g.o.Releases.Stands(call.Who.Agent.Name, call.release)
}

// spared reports whether a call outlives the release that bound it: an effect that
// was sent. Cutting it would take nothing back, and leave nobody to see how it ended.
func (a *answerBody) spared() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	whole := a.call.Request.Stream == nil || a.status != 0 // nothing of the request is still on its way
	return a.call.Tool.Effect != connections.Read && whole && a.status != http.StatusSwitchingProtocols
}

// model is the model that a request names.
func (c *Call) model() string {
	var asked struct {
		Model string `json:"model"`
	}
	_ = json.Unmarshal(c.Args, &asked) // arguments of another form name none
	return asked.Model
}

// instructions are what the operator tells the model in a request; ok is false if
// the provider adds some that are not in it.
func (c *Call) instructions() (text string, ok bool) {
	var all []string
	for _, s := range c.Said() {
		if s.By == flow.Operator {
			all = append(all, s.Words)
		}
	}
	return strings.Join(all, "\n"), !c.Instructed
}
