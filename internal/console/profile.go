package console

import (
	"cmp"
	"slices"

	"github.com/countersign/countersign/client"
)

var profilePages = []page{{"/profile", "profile", "Your profile", "profile", (*Console).showProfile}}

var profileActions = []action{
	{"/profile/password", "profile", (*Console).setOwnPassword},
	{"/profile/tokens/{token}/revoke", "profile", (*Console).revokeToken},
	{"/profile/everywhere", "profile", (*Console).signOutEverywhere},
}

type profilePage struct {
	*listing[client.Token]
	Groups   []string
	Passkeys []client.Passkey
}

var tokenColumns = []column[client.Token]{
	{Key: "created", Title: "Since", Value: func(t client.Token) string { return exact(t.Created) }, Less: func(a, b client.Token) int { return b.Created.Compare(a.Created) }},
	{Key: "kind", Title: "Kind", Value: func(t client.Token) string { return t.Kind }},
	{Key: "name", Title: "For", Value: func(t client.Token) string { return t.Name }},
	{Key: "status", Title: "Status", Value: func(t client.Token) string { return t.Status }},
	{Key: "used", Title: "Last used", Value: func(t client.Token) string { return exact(t.LastUsed) }},
	{Key: "expires", Title: "Ends", Value: func(t client.Token) string { return exact(t.Expires) }},
}

func (c *Console) showProfile(v *visit) (any, error) {
	tokens, err := v.API.Tokens(v.ctx(), "")
	if err != nil {
		return nil, err
	}
	live := tokens[:0]
	for _, t := range tokens {
		if t.Status == "active" {
			live = append(live, t)
		}
	}
	d := profilePage{listing: arrange(v, live, func(t client.Token) string { return t.ID }, tokenColumns)}
	if d.Passkeys, err = v.API.Passkeys(v.ctx(), ""); err != nil {
		return nil, err
	}
	d.Groups, err = v.groups()
	return d, err
}

// groups are the groups that the person is a member of.
func (v *visit) groups() ([]string, error) {
	all, err := v.API.Groups(v.ctx())
	var mine []string
	for _, g := range all {
		if slices.Contains(g.Members, v.Me.Name) {
			mine = append(mine, g.Name)
		}
	}
	return mine, err
}

func (c *Console) setOwnPassword(v *visit) (done, error) {
	if v.Form.Get("password") != v.Form.Get("again") {
		return done{}, &client.Error{Status: 422, Detail: "The two new passwords are not the same."}
	}
	err := v.API.SetPassword(v.ctx(), v.Me.Name, v.Form.Get("current"), v.Form.Get("password"))
	return done{to: "/profile", said: "The password is set. Sessions that a password had opened have ended."}, err
}

func (c *Console) revokeToken(v *visit) (done, error) {
	err := v.API.RevokeToken(v.ctx(), v.Request.PathValue("token"))
	return done{to: "/profile", said: "It is revoked and can do nothing any more."}, err
}

// signOutEverywhere ends every session of the person, this one last. Tokens
// made for programs live on.
func (c *Console) signOutEverywhere(v *visit) (done, error) {
	tokens, err := v.API.Tokens(v.ctx(), "")
	if err != nil {
		return done{}, err
	}
	var failed error
	end := func(t client.Token) {
		if t.Kind == "session" && t.Status == "active" {
			failed = cmp.Or(failed, v.API.RevokeToken(v.ctx(), t.ID))
		}
	}
	for _, t := range tokens {
		if !t.Present {
			end(t)
		}
	}
	for _, t := range tokens {
		if t.Present {
			end(t)
		}
	}
	return done{to: "/sign-in", said: "You are signed out everywhere."}, failed
}
