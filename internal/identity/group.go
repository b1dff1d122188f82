package identity

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// groupID is the prefix of a group's identifier.
const groupID id.Kind = "grp"

// Group is the people who may answer for something together: the approvers
// that a policy names in @approval("finance-controllers"). Whoever refers to a
// group for later must keep its ID: a group that is deleted and made again under
// the same name is another one.
//
// A group is no team. Agents belong to a team, and operators arrange teams; a
// group decides over agents, so only administrators change it.
type Group struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Members     []string  `json:"members" doc:"names of users, sorted"`
	Created     time.Time `json:"created"`
	revision    int64
}

// Has reports whether the user called name is a member.
func (g Group) Has(name string) bool { _, ok := slices.BinarySearch(g.Members, name); return ok }

func (g *Group) validate() error {
	if err := checkName("group", g.Name); err != nil {
		return err
	}
	if len(g.Members) > maxMembers {
		return ErrInvalid.Say("group %q: at most %d members", g.Name, maxMembers)
	}
	g.Members = slices.Compact(slices.Sorted(slices.Values(g.Members)))
	return checkText("group "+g.Name+": description", g.Description, 1000)
}

func (g Group) changes(old Group) changes {
	c := changes{}
	c.add("description", old.Description, g.Description)
	if !slices.Equal(old.Members, g.Members) {
		c["members"] = [2]any{old.Members, g.Members}
	}
	return c
}

// Group returns the group called name, as the view has it.
func (s *Service) Group(name string) (Group, bool) {
	g, ok := s.view.Load().groups[name]
	return g, ok
}

// GroupByID returns the group with an identifier, as the view has it.
func (s *Service) GroupByID(id string) (Group, bool) {
	for _, g := range s.view.Load().groups {
		if g.ID == id {
			return g, true
		}
	}
	return Group{}, false
}

// Groups returns every group, by name.
func (s *Service) Groups() []Group { return sorted(s.view.Load().groups) }

// PutGroup creates or updates a group with exactly the given members; it
// reports whether anything changed. ID and Created of g are ignored. Only
// administrators may.
func (s *Service) PutGroup(ctx context.Context, by audit.Actor, reason string, g Group) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.PutGroupTx(ctx, tx, by, reason, g)
		return err
	})
	return changed, err
}

// PutGroupTx is PutGroup inside a change.
func (s *Service) PutGroupTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, g Group) (bool, error) {
	if err := g.validate(); err != nil {
		return false, err
	}
	if err := checkReason(reason, false); err != nil {
		return false, err
	}
	found, err := readGroups(ctx, tx, g.Name)
	if err != nil {
		return false, err
	}
	for _, m := range g.Members {
		if err := exists(ctx, tx, "group "+g.Name+": member", m); err != nil {
			return false, err
		}
	}
	if len(found) > 0 && len(g.changes(found[0])) == 0 {
		return false, nil
	}
	if err := mayGovern(ctx, tx, by); err != nil {
		return false, err
	}
	var ev audit.Event
	name := object("group", g.Name)
	if len(found) == 0 {
		now := s.now()
		g.ID = id.At(groupID, now)
		if _, err := tx.Exec(ctx, `INSERT INTO user_groups (name, id, description, created, revision) VALUES ($1, $2, $3, $4, 1)`, g.Name, g.ID, g.Description, storage.Micros(now)); err != nil {
			return false, err
		}
		ev = event("group.created", by, reason, name, map[string]any{"id": g.ID, "members": g.Members})
	} else {
		old := found[0]
		if err := swap(ctx, tx, `UPDATE user_groups SET description = $1, revision = revision + 1 WHERE name = $2 AND revision = $3`, g.Description, g.Name, old.revision); err != nil {
			return false, err
		}
		ev = event("group.updated", by, reason, name, g.changes(old))
	}
	if err := setGroupMembers(ctx, tx, g); err != nil {
		return false, err
	}
	return true, record(ctx, tx, ev)
}

func setGroupMembers(ctx context.Context, tx *audit.Tx, g Group) error {
	if _, err := tx.Exec(ctx, `DELETE FROM user_group_members WHERE group_name = $1`, g.Name); err != nil {
		return err
	}
	for _, m := range g.Members {
		if _, err := tx.Exec(ctx, `INSERT INTO user_group_members (group_name, member) VALUES ($1, $2)`, g.Name, m); err != nil {
			return err
		}
	}
	return nil
}

// DeleteGroup deletes a group. Who uses it may refuse (OnDelete is asked about
// "group/NAME"). Only administrators may.
func (s *Service) DeleteGroup(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error { return s.DeleteGroupTx(ctx, tx, by, reason, name) })
}

// DeleteGroupTx is DeleteGroup inside a change.
func (s *Service) DeleteGroupTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	g, err := readGroup(ctx, tx, name)
	if err != nil {
		return err
	}
	if err := mayGovern(ctx, tx, by); err != nil {
		return err
	}
	if err := s.askBeforeDelete(ctx, tx, by, reason, object("group", name)); err != nil {
		return err
	}
	for _, q := range []string{`DELETE FROM user_group_members WHERE group_name = $1`, `DELETE FROM user_groups WHERE name = $1`} {
		if _, err := tx.Exec(ctx, q, name); err != nil {
			return err
		}
	}
	return record(ctx, tx, event("group.deleted", by, reason, object("group", name), map[string]any{"id": g.ID}))
}

// readGroups returns the group called name, or all if name is empty.
func readGroups(ctx context.Context, q querier, name string) ([]Group, error) {
	type row struct {
		Group
		member sql.NullString
	}
	rows, err := collect(ctx, q, func(rows *sql.Rows) (r row, err error) {
		var created int64
		err = rows.Scan(&r.ID, &r.Name, &r.Description, &created, &r.revision, &r.member)
		r.Created, r.Members = storage.Time(created), []string{}
		return r, err
	}, `SELECT g.id, g.name, g.description, g.created, g.revision, m.member FROM user_groups g
		LEFT JOIN user_group_members m ON m.group_name = g.name WHERE $1 = '' OR g.name = $1 ORDER BY g.name, m.member`, name)
	if err != nil {
		return nil, err
	}
	out := []Group{}
	for _, r := range rows {
		if len(out) == 0 || out[len(out)-1].Name != r.Name {
			out = append(out, r.Group)
		}
		if r.member.Valid {
			last := &out[len(out)-1]
			last.Members = append(last.Members, r.member.String)
		}
	}
	for i := range out { // engines collate differently; Has needs bytes in order
		slices.Sort(out[i].Members)
	}
	return out, nil
}

func readGroup(ctx context.Context, q querier, name string) (Group, error) {
	found, err := readGroups(ctx, q, name)
	return one(found, err, "group", name)
}
