package identity

import (
	"net/mail"
	"slices"
	"time"
)

// The roles of users. Admin and Operator may change things; only Admin may
// change users.
const (
	Admin    = "admin"
	Operator = "operator"
	Owner    = "owner"
	Approver = "approver"
	Auditor  = "auditor"
	Viewer   = "viewer"
)

// Roles lists every role.
var Roles = []string{Admin, Operator, Owner, Approver, Auditor, Viewer}

// User is a person.
type User struct {
	ID          string    `json:"id"`
	Name        string    `json:"name" doc:"login, unique"`
	Email       string    `json:"email,omitempty"`
	DisplayName string    `json:"display_name,omitempty"`
	Role        string    `json:"role" enum:"admin,operator,owner,approver,auditor,viewer"`
	Disabled    bool      `json:"disabled"`
	Password    bool      `json:"password" doc:"whether the user can sign in with a password"`
	Created     time.Time `json:"created"`
	revision    int64
}

// CanWrite reports whether the user's role may change things.
func (u User) CanWrite() bool { return !u.Disabled && (u.Role == Admin || u.Role == Operator) }

func (u User) validate() error {
	if err := checkName("user", u.Name); err != nil {
		return err
	}
	if !slices.Contains(Roles, u.Role) {
		return ErrInvalid.Say("user %q: role must be one of admin, operator, owner, approver, auditor, viewer", u.Name)
	}
	if u.Email != "" {
		a, err := mail.ParseAddress(u.Email)
		if err != nil || a.Address != u.Email || len(u.Email) > 254 {
			return ErrInvalid.Say("user %q: email must be a plain address such as ada@example.com", u.Name)
		}
	}
	return checkText("user "+u.Name+": display_name", u.DisplayName, 200)
}

func (u User) changes(old User) changes {
	c := changes{}
	c.add("email", old.Email, u.Email)
	c.add("display_name", old.DisplayName, u.DisplayName)
	c.add("role", old.Role, u.Role)
	return c
}

// Team is a group of users that agents belong to.
type Team struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Members     []string  `json:"members" doc:"names of users, sorted"`
	Created     time.Time `json:"created"`
	revision    int64
}

// maxMembers bounds a team.
const maxMembers = 1000

func (t *Team) validate() error {
	if err := checkName("team", t.Name); err != nil {
		return err
	}
	if len(t.Members) > maxMembers {
		return ErrInvalid.Say("team %q: at most %d members", t.Name, maxMembers)
	}
	t.Members = slices.Compact(slices.Sorted(slices.Values(t.Members)))
	return checkText("team "+t.Name+": description", t.Description, 1000)
}

func (t Team) changes(old Team) changes {
	c := changes{}
	c.add("description", old.Description, t.Description)
	if !slices.Equal(old.Members, t.Members) {
		c["members"] = [2]any{old.Members, t.Members}
	}
	return c
}
