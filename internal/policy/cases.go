package policy

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Case is one expected decision, as a file of `policy test` lists it. Team,
// stage, owner and labels come from the registered agent unless given.
type Case struct {
	Name       string            `json:"name"`
	Agent      string            `json:"agent"`
	Tool       string            `json:"tool" doc:"connection/tool"`
	Args       map[string]any    `json:"args,omitempty"`
	Expect     string            `json:"expect" enum:"allow,deny,hold"`
	By         []string          `json:"by,omitempty" doc:"ids of policies and names of grants that must be among those that determined it"`
	Team       string            `json:"team,omitempty"`
	Stage      string            `json:"stage,omitempty"`
	Owner      string            `json:"owner,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	RunLabels  []string          `json:"run_labels,omitempty"`
	RunCalls   int64             `json:"run_calls,omitempty"`
	RunAge     int64             `json:"run_age_seconds,omitempty"`
	Proposed   *bool             `json:"run_proposed,omitempty" doc:"whether a model's answer proposed the call; absent: one did"`
	Remote     string            `json:"remote,omitempty"`
	Credential string            `json:"credential,omitempty"`
	OnBehalfOf []string          `json:"on_behalf_of,omitempty"`
	Provenance Provenance        `json:"provenance,omitzero"`
	Release    Release           `json:"release,omitzero" doc:"of the agent, by which the call is bound; absent: by none"`
	Budget     *Budget           `json:"budget,omitempty" doc:"what is left; absent: nothing bounds the call"`
	User       *User             `json:"user,omitempty" doc:"the person on whose behalf it is; on_behalf_of begins with their name if it names nobody"`
	Now        time.Time         `json:"now,omitzero" doc:"the present, if absent"`
}

// Result is how a case came out.
type Result struct {
	Name     string   `json:"name"`
	Passed   bool     `json:"passed"`
	Expect   string   `json:"expect"`
	Got      string   `json:"got"`
	Problem  string   `json:"problem,omitempty"` // why it did not pass
	Decision Decision `json:"decision"`
}

// request turns a case into a request. find returns a registered agent.
func (c Case) request(find func(string) (Agent, bool), now time.Time) (Request, error) {
	conn, name, ok := strings.Cut(c.Tool, "/")
	if !ok || conn == "" || name == "" {
		return Request{}, fmt.Errorf("tool must be connection/tool, such as ledger/pay_invoice")
	}
	agent, known := Agent{}, false
	if find != nil {
		agent, known = find(c.Agent)
	}
	if !known && c.Agent == "" {
		return Request{}, fmt.Errorf("agent is missing")
	}
	agent.Name = c.Agent
	override(&agent.Team, c.Team)
	override(&agent.Stage, c.Stage)
	override(&agent.Owner, c.Owner)
	if c.Labels != nil {
		agent.Labels = c.Labels
	}
	if !c.Now.IsZero() {
		now = c.Now
	}
	args, err := json.Marshal(c.Args, json.Deterministic(true))
	if err != nil {
		return Request{}, fmt.Errorf("args: %w", err)
	}
	if c.User != nil && len(c.OnBehalfOf) == 0 {
		c.OnBehalfOf = []string{c.User.Name}
	}
	req := Request{Agent: agent, Action: Action{Connection: conn, Tool: name}, Args: jsontext.Value(args),
		Run:    Run{Labels: c.RunLabels, Calls: c.RunCalls, Proposed: c.Proposed == nil || *c.Proposed, Started: now.Add(-time.Duration(c.RunAge) * time.Second)},
		Caller: Caller{Remote: c.Remote, Credential: c.Credential}, OnBehalfOf: c.OnBehalfOf, User: c.User, Now: now, Provenance: c.Provenance, Release: c.Release, Budget: c.Budget}
	return req, nil
}

func override(field *string, value string) {
	if value != "" {
		*field = value
	}
}

// test runs cases.
func (e *engine) test(cases []Case, find func(string) (Agent, bool), now time.Time) []Result {
	results := make([]Result, 0, len(cases))
	for i, c := range cases {
		r := Result{Name: c.Name, Expect: c.Expect}
		if r.Name == "" {
			r.Name = fmt.Sprintf("case %d", i+1)
		}
		req, err := c.request(find, now)
		switch {
		case err != nil:
			r.Problem = err.Error()
		case !slices.Contains([]string{"allow", "deny", "hold"}, c.Expect):
			r.Problem = "expect must be allow, deny or hold"
		default:
			r.Decision = e.decide(&req)
			r.Got = r.Decision.Effect.String()
			r.Problem = c.differs(r.Decision)
		}
		r.Passed = r.Problem == ""
		results = append(results, r)
	}
	return results
}

func (c Case) differs(d Decision) string {
	if got := d.Effect.String(); got != c.Expect {
		return "expected " + c.Expect + " but got " + got + ": " + d.Reason
	}
	for _, by := range c.By {
		if !slices.Contains(d.Policies, by) && !slices.Contains(d.Grants, by) {
			return "expected it to be determined by " + by + ": " + d.Reason
		}
	}
	return ""
}

// Test runs cases against the set.
func (s *Set) Test(cases []Case, now time.Time) []Result { return s.e.test(cases, nil, now) }
