package policy_test

import (
	"testing"

	"github.com/countersign/countersign/internal/policy"
)

// What policies see of the person on whose behalf a call is made.
func TestTheUserIsContext(t *testing.T) {
	set := compile(t, `@id("g") permit (principal, action, resource) when { context has user && context.user.groups.contains("controllers") && context.user.teams.contains("finance")
		&& context.user.id == "usr_fiona" && context.user.issuer == "https://login.example" && context.user.role == "approver" && context.user.name == "fiona" };
		@id("old") permit (principal, action, resource) when { context.on_behalf_of.contains("zoe") };
		@id("whole") forbid (principal, action, resource) when { context has user && context.user.role == "viewer" };`)
	fiona := policy.User{ID: "usr_fiona", Name: "fiona", Issuer: "https://login.example", Role: "approver", Groups: []string{"all", "controllers"}, Teams: []string{"finance"}}
	for name, c := range map[string]struct {
		change func(*policy.Request)
		want   policy.Effect
	}{
		"who she is":         {func(*policy.Request) {}, policy.Allow},
		"another fiona":      {func(r *policy.Request) { r.User.ID = "usr_other" }, policy.Deny},
		"of another issuer":  {func(r *policy.Request) { r.User.Issuer = "" }, policy.Deny},
		"out of the group":   {func(r *policy.Request) { r.User.Groups = []string{"all"} }, policy.Deny},
		"nobody":             {func(r *policy.Request) { r.User = nil }, policy.Deny},
		"a name, as before":  {func(r *policy.Request) { r.User, r.OnBehalfOf = nil, []string{"zoe"} }, policy.Allow},
		"forbidden a viewer": {func(r *policy.Request) { r.User.Role, r.OnBehalfOf = "viewer", []string{"zoe"} }, policy.Deny},
	} {
		t.Run(name, func(t *testing.T) {
			r, u := pay(`{"invoice_id":"i-1","amount_cents":6}`), fiona
			r.User = &u
			c.change(&r)
			if d := set.Decide(r); d.Effect != c.want {
				t.Errorf("got %v: %s %v", d.Effect, d.Reason, d.Errors)
			}
		})
	}
	r := set.Test([]policy.Case{{Agent: "x", Tool: "ledger/list_invoices", Expect: "allow", By: []string{"g"}, User: &fiona}}, now)
	if !r[0].Passed || r[0].Decision.Effect != policy.Allow {
		t.Errorf("%+v", r)
	}
}
