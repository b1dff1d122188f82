package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

// Grant is an entitlement: an agent may use tools of one connection, while a
// condition holds and until it expires. It compiles to a Cedar permit.
type Grant struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Agent      string    `json:"agent"`
	Connection string    `json:"connection"`
	Tools      []string  `json:"tools" doc:"names, or * for all of the connection"`
	When       string    `json:"when,omitzero" doc:"a Cedar expression, such as context.args.amount < 1000"`
	Expires    time.Time `json:"expires,omitzero" doc:"never, if absent"`
	GivenBy    string    `json:"given_by"`
	Reason     string    `json:"reason,omitzero"`
	Created    time.Time `json:"created"`
}

// Limits on a grant.
const (
	maxGrantTools = 200
	maxGrantWhen  = 4096 // bytes
	maxToolName   = 256  // bytes
)

var fileName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`)

// Within reports whether the grant gives no more than o does: to the same agent,
// under the same condition, or one where o has none, for as long at most.
func (g Grant) Within(o Grant) bool {
	return g.Agent == o.Agent && g.Connection == o.Connection && (o.When == "" || g.When == o.When) && (o.Expires.IsZero() || !g.Expires.IsZero() && !g.Expires.After(o.Expires)) &&
		!slices.ContainsFunc(g.Tools, func(t string) bool { return !slices.Contains(o.Tools, t) && !slices.Contains(o.Tools, "*") })
}

// file is how problems call the grant.
func (g Grant) file() string { return "grant:" + g.Name }

// check returns what is wrong with the grant's own fields.
func (g Grant) check() string {
	switch {
	case !fileName.MatchString(g.Name):
		return "the name must be 1 to 100 lower case letters, digits, dots, hyphens or underscores"
	case g.Agent == "" || len(g.Agent) > maxToolName || hasControl(g.Agent):
		return "the agent must be named"
	case !utf8.ValidString(g.Agent + g.Connection + strings.Join(g.Tools, "") + g.When):
		return "every text must be UTF-8"
	case g.Connection == "" || len(g.Connection) > maxToolName || strings.ContainsAny(g.Connection, "/:") || hasControl(g.Connection):
		return "the connection must be named"
	case len(g.Tools) == 0 || len(g.Tools) > maxGrantTools:
		return fmt.Sprintf("1 to %d tools must be named; * means all of the connection", maxGrantTools)
	case slices.Contains(g.Tools, "*") && len(g.Tools) > 1:
		return "* already means all tools; name nothing beside it"
	case len(g.When) > maxGrantWhen:
		return fmt.Sprintf("when must be at most %d bytes", maxGrantWhen)
	}
	for i, t := range g.Tools {
		if t == "" || len(t) > maxToolName || slices.Contains(g.Tools[:i], t) {
			return fmt.Sprintf("every tool must be named once, in at most %d bytes", maxToolName)
		}
	}
	return ""
}

// cedar returns the permit that the grant is.
func (g Grant) cedar() string {
	quoteUID := func(t types.EntityType, id string) string {
		return string(types.NewEntityUID(t, types.String(id)).MarshalCedar())
	}
	actions := quoteUID(typeAction, g.Connection)
	if !slices.Contains(g.Tools, "*") {
		var list []string
		for _, t := range g.Tools {
			list = append(list, quoteUID(typeAction, g.Connection+"/"+t))
		}
		actions = "[" + strings.Join(list, ", ") + "]"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "permit (\n  principal == %s,\n  action in %s,\n  resource == %s\n)", quoteUID(typeAgent, g.Agent), actions, quoteUID(typeConnection, g.Connection))
	if g.When != "" {
		fmt.Fprintf(&b, "\nwhen {\n%s\n}", g.When)
	}
	b.WriteString(";\n")
	return b.String()
}

// compile turns the grant into a rule. The condition is checked to be one
// expression, so that it cannot smuggle in a clause or a policy of its own.
func (g Grant) compile() (*rule, []Problem) {
	if why := g.check(); why != "" {
		return nil, []Problem{{File: g.file(), Message: why}}
	}
	rules, problems := parseFile(g.file(), g.cedar())
	if len(problems) > 0 {
		problems[0].Line, problems[0].Column = 0, 0
		problems[0].Message = "when: " + problems[0].Message
		return nil, problems[:1]
	}
	conditions := 0
	if g.When != "" {
		conditions = 1
	}
	if len(rules) != 1 || rules[0].policy.Effect() != cedar.Permit || len(rules[0].ast.Conditions) != conditions {
		return nil, []Problem{{File: g.file(), Message: "when must be one Cedar expression, such as context.args.amount < 1000"}}
	}
	r := rules[0]
	r.id, r.grant, r.expires = g.file(), g.Name, g.Expires
	return r, nil
}
