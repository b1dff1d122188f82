package gateway_test

import (
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
)

// Policy is told who the person is, not only what they are called.
func TestPolicyIsToldForWhom(t *testing.T) {
	who := identity.Caller{Agent: identity.Agent{Name: "bot"}, OnBehalfOf: []audit.Actor{audit.Person("usr_1", "ada")}}
	if q := gateway.Question(who); q.User != nil || !slices.Equal(q.OnBehalfOf, []string{"ada"}) {
		t.Errorf("%+v", q)
	}
	who.For = &identity.Person{User: identity.User{ID: "usr_1", Name: "ada", Issuer: "https://login.example", Role: identity.Approver}, Groups: []string{"controllers"}, Teams: []string{"finance"}}
	if u := gateway.Question(who).User; u == nil || u.ID != "usr_1" || u.Name != "ada" || u.Issuer != "https://login.example" || u.Role != identity.Approver || !slices.Equal(u.Groups, []string{"controllers"}) || !slices.Equal(u.Teams, []string{"finance"}) {
		t.Errorf("%+v", u)
	}
}
