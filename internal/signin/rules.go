package signin

import (
	"regexp"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
)

var loginForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// vouch turns what the provider says of a person into what identity takes,
// or says why they may not be here. known tells whether the provider said in
// which groups they are.
func (c *Config) vouch(who person) (v identity.Vouched, err error) {
	v = identity.Vouched{Issuer: c.Issuer, Subject: who.subject, DisplayName: who.claims.text("name")}
	if address := who.claims.text(c.EmailClaim); address != "" && (c.TrustEmail || who.claims.truth("email_verified")) {
		v.Email = address
	}
	if err := c.inDomain(v.Email); err != nil {
		return v, err
	}
	groups, known := who.claims.list(c.GroupClaim)
	if len(c.RequireGroup) > 0 && !slices.ContainsFunc(c.RequireGroup, func(g string) bool { return slices.Contains(groups, g) }) {
		return v, ErrVouch.Say("you are in none of the groups that may sign in here; ask an administrator")
	}
	if known || len(groups) > 0 {
		v.Role, v.Groups = c.mapped(groups)
	} else if len(c.Roles) > 0 {
		v.Role = rest.Viewer // a provider that decides roles and says nothing gives none
	}
	v.Name = c.login(who.claims, v.Email)
	return v, nil
}

func (c *Config) inDomain(email string) error {
	if len(c.Domains) == 0 {
		return nil
	}
	_, domain, ok := strings.Cut(email, "@")
	if !ok {
		return ErrVouch.Say("the identity provider has not verified your e-mail address, which is needed here")
	}
	if !slices.ContainsFunc(c.Domains, func(d string) bool { return strings.EqualFold(d, domain) }) {
		return ErrVouch.Say("people of your e-mail domain may not sign in here")
	}
	return nil
}

// mapped returns the role and the memberships that provider groups lead to.
func (c *Config) mapped(groups []string) (role string, in map[string]bool) {
	if len(c.Roles) > 0 {
		role = rest.Viewer
		for _, r := range rest.Roles { // from most to least
			if slices.ContainsFunc(groups, func(g string) bool { return c.Roles[g] == r }) {
				role = r
				break
			}
		}
	}
	in = map[string]bool{}
	for theirs, ours := range c.Groups {
		in[ours] = in[ours] || slices.Contains(groups, theirs)
	}
	return role, in
}

// login is the name that a new person gets: empty if what the provider says
// makes none.
func (c *Config) login(all claims, email string) string {
	for _, candidate := range []string{all.text(c.NameClaim), email} {
		name, _, _ := strings.Cut(strings.ToLower(candidate), "@")
		if loginForm.MatchString(name) {
			return name
		}
	}
	return ""
}

// asksGroups reports whether it matters in which groups somebody is.
func (c *Config) asksGroups() bool {
	return len(c.Roles) > 0 || len(c.Groups) > 0 || len(c.RequireGroup) > 0
}
