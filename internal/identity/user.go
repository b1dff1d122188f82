package identity

import (
	"net/mail"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/rest"
)

// The roles of users; rest's table says what each may.
const (
	Admin    = rest.Admin
	Operator = rest.Operator
	Owner    = rest.Owner
	Approver = rest.Approver
	Auditor  = rest.Auditor
	Viewer   = rest.Viewer
)

// User is a person.
type User struct {
	ID          string    `json:"id"`
	Name        string    `json:"name" doc:"login, unique"`
	Email       string    `json:"email,omitempty"`
	DisplayName string    `json:"display_name,omitempty"`
	Role        string    `json:"role" enum:"admin,operator,owner,approver,auditor,viewer"`
	Disabled    bool      `json:"disabled"`
	Password    bool      `json:"password" doc:"whether the user can sign in with a password"`
	Issuer      string    `json:"issuer,omitempty" doc:"the identity provider that vouches for them; empty for a local user"`
	Subject     string    `json:"subject,omitempty" doc:"what it calls them"`
	Gone        bool      `json:"gone,omitempty" doc:"disabled because it no longer does; signing in there again enables them"`
	Created     time.Time `json:"created"`
	revision    int64
}

// May reports whether the user is active and their role may do what n names.
func (u User) May(n rest.Need) bool { return !u.Disabled && rest.RoleMay(u.Role, n) }

func (u User) validate() error {
	if err := checkName("user", u.Name); err != nil {
		return err
	}
	if !slices.Contains(rest.Roles, u.Role) {
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
