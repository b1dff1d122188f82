package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// verdict is what was decided about a call, and what the agent is told if it
// was not allowed.
type verdict struct {
	effect policy.Effect
	record audit.Decision
	code   string // of the refusal
	reason string
	advice []string
	holds  []policy.Needed
	rules  []policy.Rule // that determined it
	window time.Duration // how long it waits before it is sent
	free   bool          // it waits for that alone: nobody has to approve it
	needs  string        // the scope that would be enough, if that is what is wrong

	kind     fault.Kind         // of the refusal, if other than denied
	retry    time.Duration      // when trying again makes sense
	approval *approvals.Request // the request that the call attached to
	self     bool               // the person at the agent's client may decide about it
	kept     *approvals.Kept    // the answer to the call when it was made before
}

// recorded is the decision as the log has it: a refusal with its code.
func (v *verdict) recorded() *audit.Decision {
	d := v.record
	if v.effect != policy.Allow && v.kept == nil {
		d.Code = v.code
	}
	return &d
}

// prepare fills in what Serve promises about a call.
func (g *Gateway) prepare(call *Call) {
	call.Started = g.o.Now()
	if call.ID == "" {
		call.ID = id.At(id.Call, call.Started)
	}
	if call.Request == nil {
		call.Request = &Upstream{}
	}
	if call.Digest == "" {
		call.Digest = call.Request.digest()
	}
}

// digest covers what was decided on: the body, and a query before it. A body
// alone is JSON, so that neither can be taken for the other.
func (u *Upstream) digest() string {
	h := sha256.New()
	if u.Query != "" {
		_, _ = io.WriteString(h, u.Method+" "+u.Path+"?"+u.Query+"\n") // a hash takes everything
	}
	h.Write(u.Body)
	return hex.EncodeToString(h.Sum(nil))
}

// decide asks whether a lock stops the call, whether the tool is the one a
// person accepted, the agent's release includes it and the arguments are what it takes, then policy, also about every agent on whose behalf the
// caller acts, and then whether the caller's token covers what policy would let
// pass: nobody is sent for a wider token that would not help.
func (g *Gateway) decide(call *Call) verdict {
	if err := g.locked(call); err != nil {
		r := Refuse(err)
		return verdict{effect: policy.Deny, code: r.Code, reason: r.Reason, record: audit.Decision{Effect: policy.Deny.String(), Reason: r.Reason}}
	}
	if v, refused := crossed(call); refused {
		return v
	}
	if v, refused := pinned(call); refused {
		return v
	}
	if v, refused := g.released(call); refused {
		return v
	}
	if v, wrong := g.misfit(call); wrong {
		return v
	}
	if err := g.judge(call); err != nil {
		r := Refuse(err)
		return verdict{effect: policy.Deny, code: r.Code, reason: r.Reason, kind: r.Kind, record: audit.Decision{Effect: policy.Deny.String(), Reason: r.Reason}}
	}
	if err := g.reckon(call); err != nil {
		r := Refuse(err)
		return verdict{effect: policy.Deny, code: r.Code, reason: r.Reason, kind: r.Kind, record: audit.Decision{Effect: policy.Deny.String(), Reason: r.Reason}}
	}
	before := time.Now()
	d := g.o.Decider.Decide(g.question(call, call.Started))
	if d.Unmatched && call.Implied != nil && call.Implied() {
		d.Effect, d.Reason = policy.Allow, "part of the protocol, for an agent that may use something on "+call.Connection.Name
	}
	v := verdict{effect: d.Effect, reason: d.Reason, advice: d.Advice, holds: d.Holds, rules: d.Rules, code: CodeDenied}
	v.record = audit.Decision{
		Effect: d.Effect.String(), Policies: d.Policies, Grants: d.Grants, Reason: d.Reason,
		Version: d.Version, Shadow: d.Shadow, Micros: time.Since(before).Microseconds(),
	}
	if v.reason == "" && d.Effect != policy.Allow {
		v.reason = "no policy or grant allows " + call.Connection.Name + "/" + call.Tool.Name + " for this agent"
	}
	if v.effect == policy.Deny {
		return v
	}
	if v.effect == policy.Hold {
		v.reason += call.origins()
	}
	if !d.Unmatched { // what is part of the protocol is decided by the caller alone
		if v = g.shrink(call, v); v.effect == policy.Deny {
			return v
		}
	}
	return inScope(call, v)
}

// CodeStage is the code of a refusal because the connection is for other stages.
const CodeStage = "other_stage"

// crossed refuses a call of an agent to a connection that does not serve its
// stage, or that of an agent it acts for.
func crossed(call *Call) (verdict, bool) {
	for _, a := range append([]identity.Agent{call.Who.Agent}, call.Who.Behind...) {
		if a.Name == "" || call.Connection.Serves(a.Stage) {
			continue
		}
		why := "the agent " + a.Name + " is in " + a.Stage + ", and the connection " + call.Connection.Name + " is for " + strings.Join(call.Connection.Stages, " and ") + " alone"
		return verdict{effect: policy.Deny, code: CodeStage, reason: why, record: audit.Decision{Effect: policy.Deny.String(), Reason: why}}, true
	}
	return verdict{}, false
}

// pinned refuses a tool whose definition is not the one that a person saw.
func pinned(call *Call) (verdict, bool) {
	v := verdict{effect: policy.Deny}
	switch call.Tool.Status {
	case connections.StatusPinned:
		return verdict{}, false
	case connections.StatusDrifted:
		v.code = CodeDrifted
		v.reason = "the definition of this tool changed since a person accepted it; it stays refused until the connection's owner accepts the change"
	default: // new, gone, or no status at all
		v.code = CodeUnpinned
		v.reason = "nobody has accepted this tool yet; the connection's owner can"
	}
	v.record = audit.Decision{Effect: policy.Deny.String(), Reason: v.reason}
	return v, true
}

// question puts a call as policy sees it.
func (g *Gateway) question(call *Call, now time.Time) policy.Request {
	r := g.runs.look(call.Who, call.Run, now)
	q := policy.Request{
		Agent: policyAgent(call.Who), Action: policyAction(call.Connection, call.Tool), Args: call.Args,
		Run:    policy.Run{ID: r.id, Started: r.started, Calls: r.calls, Proposed: call.proposed()},
		Caller: policy.Caller{Remote: host(call.remote), Credential: string(call.Who.Credential.Kind)},
		Now:    now, Release: call.release.Release, Budget: call.left,
	}
	q.Provenance, q.Run.Labels = call.provenance()
	q.Run.Labels = append(append(q.Run.Labels, call.placed.carries...), append((r.found|call.foundKinds()).Labels(), call.guardLabels()...)...)
	if q.Args == nil {
		q.Args = noArgs
	}
	for _, a := range call.Who.OnBehalfOf {
		q.OnBehalfOf = append(q.OnBehalfOf, a.Name)
	}
	if p := call.Who.For; p != nil {
		q.User = &policy.User{ID: p.ID, Name: p.Name, Issuer: p.Issuer, Role: p.Role, Groups: p.Groups, Teams: p.Teams}
	}
	return q
}

func policyAgent(who identity.Caller) policy.Agent {
	a := who.Agent
	return policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels}
}

func policyAction(c connections.Connection, t connections.Tool) policy.Action {
	return policy.Action{Connection: c.Name, Tool: t.Name, Effect: t.Effect, Kind: c.Kind}
}
