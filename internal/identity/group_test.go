package identity_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
)

func TestGroups(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.user("opal", identity.Operator)
		opal, _ := w.User("opal")
		op := audit.Person(opal.ID, opal.Name)
		g := identity.Group{Name: "finance-controllers", Description: "who releases payments", Members: []string{"bob", "ada", "bob"}}

		// Who may write could otherwise approve.
		if _, err := w.PutGroup(ctx, op, "", g); !errors.Is(err, identity.ErrAdminOnly) {
			t.Errorf("an operator made a group: %v", err)
		}
		if _, err := w.PutGroup(ctx, w.admin, "", identity.Group{Name: "x", Members: []string{"nobody"}}); !errors.Is(err, identity.ErrInvalid) {
			t.Errorf("a group with nobody: %v", err)
		}
		changed, err := w.PutGroup(ctx, w.admin, "quarter end", g)
		if err != nil || !changed {
			t.Fatal(changed, err)
		}
		w.poll()
		made, ok := w.Group("finance-controllers")
		if !ok || !slices.Equal(made.Members, []string{"ada", "bob"}) || !made.Has("ada") || made.Has("root") || made.ID == "" {
			t.Errorf("%+v", made)
		}
		if byID, ok := w.GroupByID(made.ID); !ok || byID.Name != made.Name {
			t.Errorf("by id: %+v", byID)
		}
		if changed, err := w.PutGroup(ctx, op, "", g); changed || err != nil { // nothing changes: nothing to refuse
			t.Errorf("the same again: %t %v", changed, err)
		}
		if _, err := w.PutGroup(ctx, op, "", identity.Group{Name: g.Name, Members: []string{"opal"}}); !errors.Is(err, identity.ErrAdminOnly) {
			t.Errorf("an operator joined: %v", err)
		}
		if err := w.DeleteGroup(ctx, op, "", g.Name); !errors.Is(err, identity.ErrAdminOnly) {
			t.Errorf("an operator deleted: %v", err)
		}
		if _, err := w.PutGroup(ctx, w.admin, "", identity.Group{Name: g.Name, Members: []string{"ada"}}); err != nil {
			t.Fatal(err)
		}
		// A group made again under its name is another one.
		w.must(w.DeleteGroup(ctx, w.admin, "over", g.Name))
		_, err = w.PutGroup(ctx, w.admin, "", g)
		w.must(err)
		w.poll()
		if again, _ := w.Group(g.Name); again.ID == made.ID || len(again.Members) != 2 {
			t.Errorf("%+v", again)
		}
		if _, ok := w.GroupByID(made.ID); ok {
			t.Error("the deleted group is found by its identifier")
		}
		// Who is deleted leaves.
		if _, err := w.PutAgent(ctx, w.admin, "move", identity.Agent{Name: "bot", Owner: "ada", Stage: identity.Production}); err != nil {
			t.Fatal(err)
		}
		w.must(w.DeleteUser(ctx, w.admin, "left", "bob"))
		w.poll()
		if g, _ := w.Group(g.Name); !slices.Equal(g.Members, []string{"ada"}) {
			t.Errorf("members: %v", g.Members)
		}
		var kinds []string
		for _, ev := range w.events() {
			if ev.Object == "group/finance-controllers" {
				kinds = append(kinds, string(ev.Type))
			}
		}
		if !slices.Equal(kinds, []string{"group.created", "group.updated", "group.deleted", "group.created"}) {
			t.Errorf("events: %v", kinds)
		}
	})
}

// Deleting asks who uses the group.
func TestAGroupInUseStays(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, err := w.PutGroup(ctx, w.admin, "", identity.Group{Name: "g"})
		w.must(err)
		w.OnDelete(func(_ context.Context, _ *audit.Tx, _ audit.Actor, _, object string) error {
			if object == "group/g" {
				return identity.ErrInUse
			}
			return nil
		})
		if err := w.DeleteGroup(ctx, w.admin, "", "g"); !errors.Is(err, identity.ErrInUse) {
			t.Errorf("deleted: %v", err)
		}
	})
}
