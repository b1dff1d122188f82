package identity

import (
	"maps"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/locks"
)

// The stages of an agent.
const (
	Development = "development"
	Staging     = "staging"
	Production  = "production"
)

// Stages lists every stage.
var Stages = []string{Development, Staging, Production}

// Agent is a registered AI workload: the non-human identity that calls.
// Owner, Backup and Team are names. Labels must not be changed by readers.
type Agent struct {
	ID              string            `json:"id"`
	Name            string            `json:"name"`
	Owner           string            `json:"owner" doc:"the accountable user; without an active one the agent makes no call"`
	Backup          string            `json:"backup,omitempty" doc:"who is asked when the owner is away; another user"`
	Team            string            `json:"team,omitempty"`
	Purpose         string            `json:"purpose,omitempty"`
	BusinessProcess string            `json:"business_process,omitempty"`
	Stage           string            `json:"stage" enum:"development,staging,production"`
	Labels          map[string]string `json:"labels,omitempty"`
	Suspended       bool              `json:"suspended"`
	Created         time.Time         `json:"created"`
	LastCall        time.Time         `json:"last_call,omitzero" doc:"about a minute exact"`
	Retired         time.Time         `json:"decommissioned,omitzero" doc:"when it was decommissioned, for good"`
	revision        int64
}

// Actor returns the agent as an actor of events.
func (a Agent) Actor() audit.Actor { return audit.Actor{Kind: audit.KindAgent, ID: a.ID, Name: a.Name} }

func (a Agent) validate() error {
	if err := checkName("agent", a.Name); err != nil {
		return err
	}
	what := "agent " + a.Name + ": "
	if a.Owner == "" {
		return ErrInvalid.Say("agent %q: owner is required; name the user who answers for it", a.Name)
	}
	if a.Backup == a.Owner {
		return ErrInvalid.Say("agent %q: backup must be another user than the owner", a.Name)
	}
	if !slices.Contains(Stages, a.Stage) {
		return ErrInvalid.Say("agent %q: stage must be one of development, staging, production", a.Name)
	}
	if err := checkText(what+"purpose", a.Purpose, 2000); err != nil {
		return err
	}
	if err := checkText(what+"business_process", a.BusinessProcess, 200); err != nil {
		return err
	}
	return checkLabels(what, a.Labels)
}

// changes lists what differs except the owner, whose change is an event of its own.
func (a Agent) changes(old Agent) changes {
	c := changes{}
	c.add("backup", old.Backup, a.Backup)
	c.add("team", old.Team, a.Team)
	c.add("purpose", old.Purpose, a.Purpose)
	c.add("business_process", old.BusinessProcess, a.BusinessProcess)
	c.add("stage", old.Stage, a.Stage)
	if !maps.Equal(old.Labels, a.Labels) {
		c["labels"] = [2]any{old.Labels, a.Labels}
	}
	return c
}

// The kinds of credentials.
const (
	KindKey = "key" // csk_…
	KindRun = "run" // JWT of one run
)

// Credential says which credential was presented, never its value.
type Credential struct {
	ID      string
	Kind    string
	Expires time.Time
}

// Caller is an agent that has proved who it is.
type Caller struct {
	Agent      Agent
	Owner      User
	Credential Credential
	Run        string        // set when the credential names a run
	OnBehalfOf []audit.Actor // the principal chain, the user first

	// Of an access token: where and for what it is good, and what it descends
	// from. Nil for keys and run tokens, which are bound by policy alone.
	Doors   []string
	Scope   *Scope
	Lineage []string
	Behind  []Agent // the agents of OnBehalfOf, as they are registered now
	For     *Person // the user whom OnBehalfOf begins with; nil without one
}

// Person is a user with what they are in, as it is registered now.
type Person struct {
	User
	Groups []string
	Teams  []string
}

// Subject returns the caller as locks see it: whoever is in its principal
// chain can be locked too.
func (c Caller) Subject() locks.Subject {
	s := locks.Subject{Agents: []string{c.Agent.Name}, Owners: []string{c.Agent.Owner}, Team: c.Agent.Team, Credential: c.Credential.ID, Lineage: c.Lineage, Run: c.Run}
	for _, a := range c.OnBehalfOf {
		switch a.Kind {
		case audit.KindAgent:
			s.Agents = append(s.Agents, a.Name)
		case audit.KindUser:
			s.Owners = append(s.Owners, a.Name)
		}
	}
	return s
}
