package console

import (
	"fmt"
	"strings"

	"github.com/countersign/countersign/client"
)

var peoplePages = []page{
	{"/people", "people", "Users and groups", "people", (*Console).showPeople},
	{"/people/{name}", "user", "User", "people", (*Console).showUser},
	{"/settings", "settings", "Settings", "settings", (*Console).showSettings},
}

var peopleActions = []action{
	{"/people", "people", (*Console).addUser},
	{"/people/{name}", "user", (*Console).changeUser},
	{"/people/{name}/password", "user", (*Console).setPassword},
	{"/people/{name}/tokens/{token}/revoke", "user", (*Console).revokeOthersToken},
	{"/groups", "people", (*Console).putGroup},
	{"/settings/verify", "settings", (*Console).verifyLog},
	{"/settings/retention", "settings", (*Console).setRetention},
}

var roles = []string{"admin", "operator", "owner", "approver", "auditor", "viewer"}

type peoplePage struct {
	*listing[client.User]
	Groups []client.Group
	Teams  []client.Team
	Roles  []string
	Users  []client.User
}

var userColumns = []column[client.User]{
	{Key: "name", Title: "Name", Value: func(u client.User) string { return u.Name }},
	{Key: "display", Title: "Called", Value: func(u client.User) string { return u.DisplayName }},
	{Key: "role", Title: "Role", Value: func(u client.User) string { return u.Role }},
	{Key: "email", Title: "Mail", Value: func(u client.User) string { return u.Email }},
	{Key: "state", Title: "State", Value: userState},
	{Key: "created", Title: "Since", Value: func(u client.User) string { return exact(u.Created) }, Less: func(a, b client.User) int { return b.Created.Compare(a.Created) }},
}

func userState(u client.User) string {
	if u.Disabled {
		return "disabled"
	}
	return "active"
}

func (c *Console) showPeople(v *visit) (any, error) {
	users, err := v.API.Users(v.ctx())
	if err != nil {
		return nil, err
	}
	d := peoplePage{listing: arrange(v, users, func(u client.User) string { return u.Name }, userColumns), Roles: roles, Users: users}
	if d.Groups, err = v.API.Groups(v.ctx()); err != nil {
		return nil, err
	}
	d.Teams, err = v.API.Teams(v.ctx())
	return d, err
}

func (c *Console) addUser(v *visit) (done, error) {
	f := v.Form
	u, err := v.reason().PutUser(v.ctx(), f.Get("name"), client.UserSpec{DisplayName: f.Get("display"), Email: f.Get("email"), Role: f.Get("role")})
	return done{to: string(pathOf("/people", u.Name)), said: u.Name + " is added. Set a password, or let them sign in through your identity provider."}, err
}

func (c *Console) putGroup(v *visit) (done, error) {
	g, err := v.reason().PutGroup(v.ctx(), v.Form.Get("group"), v.Form.Get("description"), v.Form["member"])
	return done{to: "/people", said: fmt.Sprintf("The group %s has %s.", g.Name, plural(len(g.Members), "member"))}, err
}

type userPage struct {
	client.User
	State    string
	Roles    []string
	Tokens   []client.Token
	Groups   []string
	Owns     []client.Agent
	More     int // agents that are not shown
	Passkeys []client.Passkey
}

func (c *Console) showUser(v *visit) (any, error) {
	name := v.Request.PathValue("name")
	u, err := v.API.User(v.ctx(), name)
	if err != nil {
		return nil, err
	}
	v.Title = u.Name
	d := userPage{User: u, State: userState(u), Roles: roles}
	if v.May("govern") || name == v.Me.Name {
		tokens, err := v.API.Tokens(v.ctx(), name)
		if err != nil {
			return nil, err
		}
		for _, t := range tokens {
			if t.Status == "active" {
				d.Tokens = append(d.Tokens, t)
			}
		}
		if d.Passkeys, err = v.API.Passkeys(v.ctx(), name); err != nil {
			return nil, err
		}
	}
	groups, err := v.API.Groups(v.ctx())
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if strings.Contains("\n"+strings.Join(g.Members, "\n")+"\n", "\n"+name+"\n") {
			d.Groups = append(d.Groups, g.Name)
		}
	}
	agents, err := v.API.Agents(v.ctx())
	for _, a := range agents {
		if a.Owner == name {
			d.Owns = append(d.Owns, a)
		}
	}
	if n := len(d.Owns) - mostWhole; n > 0 {
		d.Owns, d.More = d.Owns[:mostWhole], n
	}
	return d, err
}

func (c *Console) changeUser(v *visit) (done, error) {
	f, name := v.Form, v.Request.PathValue("name")
	u, err := v.reason().PutUser(v.ctx(), name, client.UserSpec{DisplayName: f.Get("display"), Email: f.Get("email"), Role: f.Get("role"), Disabled: f.Get("disabled") != ""})
	return done{to: string(pathOf("/people", name)), said: u.Name + " is changed."}, err
}

func (c *Console) setPassword(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	err := v.reason().SetPassword(v.ctx(), name, "", v.Form.Get("password"))
	v.Form.Del("password")
	return done{to: string(pathOf("/people", name)), said: "The password of " + name + " is set; sessions have ended."}, err
}

func (c *Console) revokeOthersToken(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	return done{to: string(pathOf("/people", name)), said: "It is revoked."}, v.reason().RevokeToken(v.ctx(), v.Request.PathValue("token"))
}

// settingsPage is how the installation does.
type settingsPage struct {
	Seal      client.SealStatus
	Keys      client.LogKeys
	Retention client.Retention
	Holds     []client.Hold
	URL       string
	Verified  *client.Verification
}

func (c *Console) showSettings(v *visit) (any, error) {
	d := settingsPage{URL: c.url}
	var err error
	if d.Seal, err = v.API.SealStatus(v.ctx()); err != nil {
		return nil, err
	}
	if d.Keys, err = v.API.LogKeys(v.ctx()); err != nil {
		return nil, err
	}
	if d.Retention, err = v.API.Retention(v.ctx()); err != nil {
		return nil, err
	}
	d.Holds, err = v.API.Holds(v.ctx())
	return d, err
}

func (c *Console) verifyLog(v *visit) (done, error) {
	r, err := v.API.VerifyLog(v.ctx())
	if err != nil {
		return done{}, err
	}
	data, err := c.showSettings(v)
	if err != nil {
		return done{}, err
	}
	d, ok := data.(settingsPage)
	if !ok {
		return done{}, fmt.Errorf("settings are %T", data)
	}
	d.Verified = &r
	return done{template: "settings", title: "Settings", data: d}, nil
}

func (c *Console) setRetention(v *visit) (done, error) {
	days := 0
	if _, err := fmt.Sscanf(v.Form.Get("days"), "%d", &days); err != nil {
		return done{}, &client.Error{Status: 422, Detail: "Days are a whole number."}
	}
	r, err := v.reason().SetRetention(v.ctx(), days)
	return done{to: "/settings", said: fmt.Sprintf("Contents are kept for %s.", plural(r.Days, "day"))}, err
}
