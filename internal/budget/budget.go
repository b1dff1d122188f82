package budget

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
)

// ID is the prefix of a budget's identifier.
const ID id.Kind = "bud"

// What a budget counts.
const (
	Calls   = "calls"   // calls that go out
	Effects = "effects" // calls of tools that write or cannot be taken back
	Tokens  = "tokens"  // of models, in and out
	Money   = "money"   // what models cost, in millionths of the price table's currency
)

// Meters lists them.
var Meters = []string{Calls, Effects, Tokens, Money}

// What a budget may be given out for separately.
const (
	EachAgent = "agent" // every agent that it is for has its own
	EachRun   = "run"   // every run has its own
)

// MostLimit is the largest limit: a thousand million of the currency, or 10^15 calls.
const MostLimit = 1_000_000_000_000_000

// mostAmount is the most that one call can be counted with, whatever its
// request or its upstream say.
const mostAmount = 1_000_000_000_000

// Errors of this package.
var (
	ErrExceeded    = fault.New(fault.Limited, "budget_exceeded", "a budget is used up")
	ErrUnavailable = fault.New(fault.Unavailable, "budget_unavailable", "whether the budget allows this call cannot be seen, so the call is refused; try again")
	ErrLate        = fault.New(fault.Unavailable, "budget_late", "it took too long until the call could be recorded, so what was reserved for it does not count any more; try again")
	ErrNotFound    = fault.New(fault.NotFound, "budget_not_found", "there is no such budget")
	ErrInvalid     = fault.New(fault.Invalid, "invalid_budget", "a budget needs a name, what it counts, a limit and a period")
	ErrReason      = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrPrice       = fault.New(fault.Invalid, "invalid_price", "a price needs a model, and what a million tokens cost")
	ErrNoPrice     = fault.New(fault.NotFound, "price_not_found", "no price was set for this model")
)

// Budget is a limit on what calls may use. Agent, Team and Tool say which
// calls; those that are empty say nothing, and all that are set must fit.
type Budget struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Meter   string    `json:"meter" enum:"calls,effects,tokens,money" doc:"what is counted; money in millionths of the price table's currency"`
	Agent   string    `json:"agent,omitempty" doc:"for calls of this agent, and calls on its behalf"`
	Team    string    `json:"team,omitempty" doc:"for calls of agents of this team"`
	Tool    string    `json:"tool,omitempty" doc:"for calls of this tool (CONNECTION/TOOL), or of all of a connection (CONNECTION/*)"`
	Each    string    `json:"each,omitempty" enum:"agent,run" doc:"every agent or every run has its own; all share one if absent"`
	Period  string    `json:"period" enum:"hour,day,month,total" doc:"after which it begins anew"`
	Zone    string    `json:"zone,omitempty" doc:"IANA time zone in which days and months begin; UTC if absent"`
	Hard    int64     `json:"hard,omitempty" doc:"more than this is refused; nothing is if absent"`
	Soft    int64     `json:"soft,omitempty" doc:"when this is reached somebody is told; nobody is if absent"`
	Reason  string    `json:"reason,omitempty"`
	By      string    `json:"by" doc:"who set it last"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	toolForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}/.{1,128}$`)
)

// Normalize returns the budget as it is stored, or what is wrong with it.
func (b Budget) Normalize() (Budget, error) {
	if b.Zone == "UTC" {
		b.Zone = ""
	}
	switch {
	case !nameForm.MatchString(b.Name):
		return b, ErrInvalid.Say("name must be 1 to 63 of a-z, 0-9, '.', '_' and '-', not beginning with a mark")
	case !slices.Contains(Meters, b.Meter):
		return b, ErrInvalid.Say("meter must be one of %s", strings.Join(Meters, ", "))
	case b.Agent != "" && !nameForm.MatchString(b.Agent):
		return b, ErrInvalid.Say("agent must be the name of an agent")
	case b.Team != "" && !nameForm.MatchString(b.Team):
		return b, ErrInvalid.Say("team must be the name of a team")
	case b.Tool != "" && (!toolForm.MatchString(b.Tool) || !utf8.ValidString(b.Tool)):
		return b, ErrInvalid.Say("tool must be CONNECTION/TOOL, or CONNECTION/* for all tools of a connection")
	case b.Each != "" && b.Each != EachAgent && b.Each != EachRun:
		return b, ErrInvalid.Say("each must be agent or run, or left out")
	case !slices.Contains(Periods, b.Period):
		return b, ErrInvalid.Say("period must be one of %s", strings.Join(Periods, ", "))
	case b.Hard < 0 || b.Soft < 0 || b.Hard > MostLimit || b.Soft > MostLimit:
		return b, ErrInvalid.Say("hard and soft may not be negative, nor over %d", int64(MostLimit))
	case b.Hard == 0 && b.Soft == 0:
		return b, ErrInvalid.Say("hard or soft must be given: a budget without a limit limits nothing")
	case b.Hard > 0 && b.Soft > b.Hard:
		return b, ErrInvalid.Say("soft must not be over hard: it would never be reached")
	}
	if _, err := zone(b.Zone); err != nil {
		return b, err
	}
	return b, nil
}

// same reports whether what b counted so far stays true for o: only limits and
// reasons differ.
func (b Budget) same(o Budget) bool {
	return b.Meter == o.Meter && b.Agent == o.Agent && b.Team == o.Team && b.Tool == o.Tool && b.Each == o.Each && b.Period == o.Period && b.Zone == o.Zone
}

// Member is an agent that has a part in a call.
type Member struct{ Agent, Team string }

// Call is a call as budgets see it.
type Call struct {
	ID, Run    string
	Chain      []Member // who calls, then those on whose behalf
	Connection string
	Tool       string
	Effect     bool       // the tool writes, or cannot be taken back
	Model      func() Use // asked where it matters; nil: it is no call of a model
}

// Use is what a call of a model may use at most.
type Use struct {
	Model  string
	Input  int64 // tokens that its request can have: its bytes
	Output int64 // tokens that it asks for; 0: as many as the model can give
	Silent bool  // the answer has no tokens: embeddings
}

func (b *Budget) covers(c *Call) bool {
	if b.Tool != "" && b.Tool != c.Connection+"/"+c.Tool && b.Tool != c.Connection+"/*" {
		return false
	}
	return (b.Agent == "" && b.Team == "") || slices.ContainsFunc(c.Chain, func(m Member) bool {
		return (b.Agent == "" || b.Agent == m.Agent) && (b.Team == "" || b.Team == m.Team)
	})
}

// part is whose share of the budget the call uses.
func (b *Budget) part(c *Call) string {
	switch {
	case b.Each == EachRun:
		return c.Run
	case b.Each == EachAgent && len(c.Chain) > 0:
		return c.Chain[0].Agent
	}
	return ""
}

// most is what the call may use of the budget.
func (b *Budget) most(c *Call, p *Prices) int64 {
	switch {
	case b.Meter == Calls:
		return 1
	case b.Meter == Effects && c.Effect:
		return 1
	case b.Meter == Effects || c.Model == nil:
		return 0
	}
	u := c.Model()
	in, out := u.bounds(p)
	if b.Meter == Tokens {
		return clamp(in + out)
	}
	return clamp(p.Cost(u.Model, in, 0, out).Amount)
}

func (u *Use) bounds(p *Prices) (in, out int64) {
	in, out = clamp(u.Input), clamp(u.Output)
	if out == 0 {
		out = p.MaxOutput(u.Model)
	}
	if u.Silent {
		out = 0
	}
	return in, out
}

func clamp(n int64) int64 { return min(max(n, 0), mostAmount) }

// index finds the budgets of a call without looking at those of others.
type index struct {
	agent, team, tool map[string][]*Budget
	rest              []*Budget
	byID              map[string]*Budget
	all               []Budget
}

func newIndex(all []Budget) *index {
	x := &index{agent: map[string][]*Budget{}, team: map[string][]*Budget{}, tool: map[string][]*Budget{}, byID: map[string]*Budget{}, all: all}
	for i := range all {
		b := &all[i]
		x.byID[b.ID] = b
		switch {
		case b.Agent != "":
			x.agent[b.Agent] = append(x.agent[b.Agent], b)
		case b.Team != "":
			x.team[b.Team] = append(x.team[b.Team], b)
		case b.Tool != "":
			x.tool[b.Tool] = append(x.tool[b.Tool], b)
		default:
			x.rest = append(x.rest, b)
		}
	}
	return x
}

// of returns the budgets that a call uses, each once.
func (x *index) of(c *Call) []*Budget {
	if len(x.all) == 0 {
		return nil
	}
	var out []*Budget
	add := func(list []*Budget) {
		for _, b := range list {
			if b.covers(c) && !slices.Contains(out, b) {
				out = append(out, b)
			}
		}
	}
	for _, m := range c.Chain {
		add(x.agent[m.Agent])
		add(x.team[m.Team])
	}
	if len(x.tool) > 0 {
		add(x.tool[c.Connection+"/"+c.Tool])
		add(x.tool[c.Connection+"/*"])
	}
	add(x.rest)
	return out
}
