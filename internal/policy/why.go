package policy

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
)

// Explanation is a decision with what every policy near it had to say.
type Explanation struct {
	Decision Decision      `json:"decision"`
	Rules    []RuleFinding `json:"rules"`
	Notes    []string      `json:"notes,omitzero"` // what policy cannot see of the tool's arguments
}

// RuleFinding is what one policy or grant says about a request.
type RuleFinding struct {
	ID        string `json:"id"`
	File      string `json:"file"`
	Line      int    `json:"line,omitzero"`
	Text      string `json:"text"`
	Kind      string `json:"kind"`             // permit, forbid, approval, grant
	Scope     bool   `json:"scope"`            // principal, action and resource match
	Satisfied bool   `json:"satisfied"`        // the conditions hold too
	Expired   bool   `json:"expired,omitzero"` // it counts no more
	Error     string `json:"error,omitzero"`
}

// maxNear bounds the policies listed that concern the tool but not the agent.
const maxNear = 50

// Why explains req: the decision, every policy whose scope matches, and then
// some that concern the same tool but other agents.
func (s *Set) Why(req Request) Explanation { return s.e.why(&req) }

func (e *engine) why(req *Request) Explanation {
	x := Explanation{Decision: e.decide(req)}
	t := e.ts.tools[toolKey{req.Action.Connection, req.Action.Tool}]
	if t == nil {
		return x
	}
	x.Notes = t.notes
	q, failed := e.prepare(req)
	if failed != "" {
		q = question{tool: t, world: e.worldOf(&req.Agent)}
	}
	q.ask(req, needAll)
	var near []RuleFinding
	for _, r := range e.rules {
		if !actionMatches(r, t) || !resourceMatches(r, t) {
			continue
		}
		f := e.ask(r, q, req, failed == "")
		if f.Scope {
			x.Rules = append(x.Rules, f)
		} else if len(near) < maxNear {
			near = append(near, f)
		}
	}
	slices.SortStableFunc(x.Rules, func(a, b RuleFinding) int { return strings.Compare(rank(a), rank(b)) })
	x.Rules = append(x.Rules, near...)
	return x
}

// rank puts what decided first.
func rank(f RuleFinding) string {
	weight := "2"
	if f.Satisfied || f.Error != "" {
		weight = "1"
	}
	return weight + f.Kind + f.ID
}

func (e *engine) ask(r *rule, q question, req *Request, evaluate bool) RuleFinding {
	f := RuleFinding{ID: r.id, File: r.file, Text: r.text, Kind: r.kind(), Scope: q.world.matches(r, q.tool), Expired: r.expired(req.Now)}
	if r.grant == "" {
		f.Line = r.source.at(r.offset).Line
	}
	switch {
	case !f.Scope || !evaluate:
	case r.unfitFor(q.tool):
		f.Error = strings.TrimPrefix(misfit, ": ") + q.tool.String()
	default:
		_, diag := cedar.Authorize(set{r}, q.world, q.cedar)
		f.Satisfied = len(diag.Reasons) > 0
		if len(diag.Errors) > 0 {
			f.Error = diag.Errors[0].Message
		}
	}
	return f
}

func (r *rule) kind() string {
	switch {
	case r.grant != "":
		return "grant"
	case r.hold != nil:
		return "approval"
	case r.forbid:
		return "forbid"
	default:
		return "permit"
	}
}
