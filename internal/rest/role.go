package rest

import (
	"context"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/fault"
)

// The roles of people. What each may do is the table below, and nowhere else.
const (
	Admin    = "admin"    // everything, people and the log's keys included
	Operator = "operator" // runs the installation: everything but people and keys
	Owner    = "owner"    // answers for agents and connections, and manages those
	Approver = "approver" // answers held calls, in the groups they are a member of
	Auditor  = "auditor"  // sees everything, changes nothing but legal holds
	Viewer   = "viewer"   // sees what is there and what happened, without contents
)

// Roles lists every role, from most to least.
var Roles = []string{Admin, Operator, Owner, Approver, Auditor, Viewer}

// Need says what an operation demands of its caller.
type Need int

// The demands. The zero value is Read for GET; anything else must say what it needs.
const (
	unsaid  Need = iota
	Public       // nobody in particular: sign-in, signed webhooks
	Self         // any signed-in person, about themselves: sessions, passwords
	Read         // see resources, events and findings, without contents
	Report       // tell that something leaked
	Inspect      // see contents of calls (prompts, arguments, answers), verify and export the log
	Decide       // answer a held call; groups say which
	Own          // manage one agent, connection or secret: its owner, or who may Write (see Op.Of)
	Stop         // place and lift locks of any kind
	Write        // change connections, agents, policies, grants, secrets
	Hold         // place and release legal holds
	Govern       // change people, groups, retention and the log's keys; erase
)

// needNames are the names of needs in the OpenAPI document (x-countersign-need)
// and in docs/roles.md.
var needNames = map[Need]string{Public: "public", Self: "self", Read: "read", Report: "report", Inspect: "inspect", Decide: "decide", Own: "own",
	Stop: "stop", Write: "write", Hold: "hold", Govern: "govern"}

// Needs lists every demand but Public, from least to most.
var Needs = []Need{Self, Read, Report, Inspect, Decide, Own, Stop, Write, Hold, Govern}

// String returns the need's name.
func (n Need) String() string { return needNames[n] }

// table says what each role may. Own is not in it but for Owner: who may Write
// may manage anything, an owner only what is theirs.
var table = map[string][]Need{
	Admin:    {Self, Read, Report, Inspect, Decide, Own, Stop, Write, Hold, Govern},
	Operator: {Self, Read, Report, Inspect, Decide, Own, Stop, Write},
	Owner:    {Self, Read, Report, Decide, Own},
	Approver: {Self, Read, Report, Decide},
	Auditor:  {Self, Read, Report, Inspect, Hold},
	Viewer:   {Self, Read, Report},
}

// RoleMay reports whether the role may do what n names; for Own, whether it
// may with what is its own. An unknown role may nothing.
func RoleMay(role string, n Need) bool { return n == Public || slices.Contains(table[role], n) }

// May reports whether the caller's role may do what n names.
func (c Caller) May(n Need) bool { return RoleMay(c.Role, n) }

// RolesThatMay lists the roles that may do what n names.
func RolesThatMay(n Need) (roles []string) {
	for _, r := range Roles {
		if RoleMay(r, n) {
			roles = append(roles, r)
		}
	}
	return roles
}

// Errors of the check.
var (
	ErrRole     = fault.New(fault.Denied, "role_required", "your role does not allow this")
	ErrNotOwner = fault.New(fault.Denied, "not_owner", "you are not its owner; ask its owner or an operator")
)

// Refuse returns nil if the caller's role may do what n names, else a refusal
// that says which roles may. Operations declare their need in Op; this is for
// what depends on the content of a request.
func (c Caller) Refuse(n Need) error {
	if c.May(n) {
		return nil
	}
	roles := RolesThatMay(n)
	return ErrRole.Say("this needs the role %s; yours is %s (ask an administrator; countersign user show tells your role)", orList(roles), c.Role)
}

func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// Owns reports whether the person called user owns an object such as
// "agent/invoice-checker". It fails with a fault when that cannot be told.
type Owns func(ctx context.Context, user, object string) (bool, error)

// permit checks the caller of an operation against its need. param returns a
// path parameter.
func (api *API) permit(ctx context.Context, c Caller, op Op, param func(string) string) error {
	if err := c.Refuse(op.Need); err != nil {
		return err
	}
	if op.Need != Own || c.May(Write) {
		return nil
	}
	kind, name, ok := strings.Cut(op.Of, "/")
	if !ok || api.Owns == nil {
		return ErrNotOwner
	}
	object := kind + "/" + param(strings.Trim(name, "{}"))
	owns, err := api.Owns(ctx, c.Name, object)
	switch {
	case err != nil:
		return err
	case !owns:
		return ErrNotOwner.Say("you are not the owner of %s; ask its owner or an operator", object)
	}
	return nil
}
