package policy_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Grants and policies go back to how they were: changed, revoked or deleted, and
// what was not there then goes away.
func TestRollbacks(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		put := func(tools ...string) {
			t.Helper()
			_, err := w.PutGrant(ctx, fiona, "r", policy.Grant{Name: "g", Agent: "invoice-checker", Connection: "ledger", Tools: tools})
			must(err)
		}
		gives := func() []string {
			t.Helper()
			g, err := w.Grant(ctx, "g")
			if errors.Is(err, policy.ErrNoGrant) {
				return nil
			}
			must(err)
			return g.Tools
		}
		put("list_invoices")
		put("list_invoices", "pay_invoice")
		must(w.RevokeGrant(ctx, fiona, "r", "g"))
		if changed, err := w.RollbackGrant(ctx, fiona, "back", "g", 3); changed || err != nil {
			t.Errorf("it is revoked already: %t %v", changed, err)
		}
		for i, step := range []struct {
			to   int64
			want []string
		}{
			{0, []string{"list_invoices", "pay_invoice"}}, // before the revocation
			{1, []string{"list_invoices"}},
			{3, nil}, // it was revoked then
			{0, []string{"list_invoices"}},
		} {
			changed, err := w.RollbackGrant(ctx, fiona, "back", "g", step.to)
			must(err)
			if got := gives(); !changed || !slices.Equal(got, step.want) {
				t.Errorf("step %d: changed %t, gives %v, want %v", i, changed, got, step.want)
			}
		}
		if changed, err := w.RollbackGrant(ctx, fiona, "back", "g", 1); changed || err != nil {
			t.Errorf("it is like this already: %t %v", changed, err)
		}
		found, err := w.GrantHistory(ctx, "g")
		must(err)
		if len(found) != 7 || found[0].Version != 7 || !found[1].Revoked || found[6].SavedBy != "fiona" {
			t.Errorf("history: %+v", found)
		}

		const a, b = `@id("x") forbid (principal, action, resource);`, `@id("x") permit (principal, action, resource);`
		for _, text := range []string{a, b} {
			_, err := w.PutPolicies(ctx, fiona, "r", "p", text)
			must(err)
		}
		must(w.DeletePolicy(ctx, fiona, "r", "p"))
		if changed, err := w.RollbackPolicy(ctx, fiona, "back", "p", 3); changed || err != nil {
			t.Errorf("it is deleted already: %t %v", changed, err)
		}
		for i, step := range []struct {
			to   int64
			want string
		}{{0, b}, {1, a}, {3, ""}, {1, a}} {
			changed, err := w.RollbackPolicy(ctx, fiona, "back", "p", step.to)
			must(err)
			f, err := w.File(ctx, "p")
			if step.want != "" {
				must(err)
			}
			if !changed || f.Text != step.want {
				t.Errorf("step %d: changed %t, says %q", i, changed, f.Text)
			}
		}
		for name, err := range map[string]error{
			"an unknown version":  second(w.RollbackGrant(ctx, fiona, "back", "g", 70)),
			"an unknown grant":    second(w.RollbackGrant(ctx, fiona, "back", "h", 0)),
			"an unknown policy":   second(w.RollbackPolicy(ctx, fiona, "back", "q", 0)),
			"a version of nobody": second(w.RollbackPolicy(ctx, fiona, "back", "p", 70)),
		} {
			if !errors.Is(err, policy.ErrNoVersion) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := second(w.RollbackGrant(ctx, fiona, "", "g", 1)); !errors.Is(err, policy.ErrReason) {
			t.Errorf("without a reason: %v", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }
