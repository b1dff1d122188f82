package identity

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// mayGovern refuses everyone but administrators (and Countersign itself): who
// may change users could otherwise give himself any role.
func mayGovern(ctx context.Context, q querier, by audit.Actor) error {
	if by.Kind == audit.KindSystem {
		return nil
	}
	if by.Kind != audit.KindUser {
		return ErrAdminOnly
	}
	u, err := readUser(ctx, q, by.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		return ErrAdminOnly
	case err != nil:
		return err
	case u.Role != Admin || u.Disabled || (by.ID != "" && by.ID != u.ID):
		return ErrAdminOnly
	}
	return nil
}

// keepsAnAdmin refuses to take away the last active administrator.
func keepsAnAdmin(ctx context.Context, q querier, without string) error {
	others, err := readNames(ctx, q, `SELECT name FROM users WHERE role = $1 AND NOT disabled AND name <> $2 LIMIT 1`, Admin, without)
	if err == nil && len(others) == 0 {
		return ErrLastAdmin
	}
	return err
}

// PutUser creates or updates a user; it reports whether anything changed. ID,
// Created and Password of u are ignored. Only administrators may.
func (s *Service) PutUser(ctx context.Context, by audit.Actor, reason string, u User) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.PutUserTx(ctx, tx, by, reason, u)
		return err
	})
	return changed, err
}

// PutUserTx is PutUser inside a change.
func (s *Service) PutUserTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, u User) (bool, error) {
	if err := u.validate(); err != nil {
		return false, err
	}
	if err := checkReason(reason, false); err != nil {
		return false, err
	}
	found, err := readUsers(ctx, tx, u.Name)
	if err != nil {
		return false, err
	}
	if len(found) == 0 {
		return true, s.createUser(ctx, tx, by, reason, u)
	}
	old := found[0]
	u.Gone = u.Gone && u.Disabled && by.Kind == audit.KindSystem // what a person decides, no identity provider undoes
	fields := u.changes(old)
	if len(fields) == 0 && u.Disabled == old.Disabled && u.Gone == old.Gone {
		return false, nil
	}
	if err := mayGovern(ctx, tx, by); err != nil {
		return false, err
	}
	if old.Role == Admin && !old.Disabled && (u.Role != Admin || u.Disabled) {
		if err := keepsAnAdmin(ctx, tx, u.Name); err != nil {
			return false, err
		}
	}
	err = swap(ctx, tx, `UPDATE users SET email = $1, display_name = $2, role = $3, disabled = $4, gone = $5, revision = revision + 1 WHERE name = $6 AND revision = $7`,
		u.Email, u.DisplayName, u.Role, u.Disabled, u.Gone, u.Name, old.revision)
	if err != nil {
		return false, err
	}
	if err := record(ctx, tx, userEvents(by, reason, old, u, fields)...); err != nil {
		return false, err
	}
	if s.follower != nil && u.Disabled != old.Disabled {
		return true, s.follower.UserTurned(ctx, tx, by, reason, u)
	}
	return true, nil
}

func userEvents(by audit.Actor, reason string, old, u User, fields changes) (events []audit.Event) {
	name := object("user", u.Name)
	if len(fields) > 0 {
		events = append(events, event("user.updated", by, reason, name, fields))
	}
	switch {
	case u.Disabled && !old.Disabled, u.Disabled && u.Gone != old.Gone:
		events = append(events, event("user.disabled", by, reason, name, map[string]any{"gone": u.Gone}))
	case !u.Disabled && old.Disabled:
		events = append(events, event("user.enabled", by, reason, name, nil))
	}
	return events
}

func (s *Service) createUser(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, u User) error {
	if err := mayGovern(ctx, tx, by); err != nil {
		return err
	}
	now := s.now()
	u.ID = id.At(id.User, now)
	_, err := tx.Exec(ctx, `INSERT INTO users (name, id, email, display_name, role, disabled, password, created, revision) VALUES ($1, $2, $3, $4, $5, $6, '', $7, 1)`,
		u.Name, u.ID, u.Email, u.DisplayName, u.Role, u.Disabled, storage.Micros(now))
	if err != nil {
		return err
	}
	return record(ctx, tx, event("user.created", by, reason, object("user", u.Name),
		map[string]any{"id": u.ID, "role": u.Role, "email": u.Email, "disabled": u.Disabled}))
}

// DeleteUser deletes a user with his tokens and memberships. It refuses while
// the user owns something, and says what. Only administrators may.
func (s *Service) DeleteUser(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error { return s.DeleteUserTx(ctx, tx, by, reason, name) })
}

// DeleteUserTx is DeleteUser inside a change.
func (s *Service) DeleteUserTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	u, err := readUser(ctx, tx, name)
	if err != nil {
		return err
	}
	if err := mayGovern(ctx, tx, by); err != nil {
		return err
	}
	if u.Role == Admin && !u.Disabled {
		if err := keepsAnAdmin(ctx, tx, name); err != nil {
			return err
		}
	}
	owned, err := readNames(ctx, tx, `SELECT name FROM agents WHERE owner = $1 OR backup = $1 ORDER BY name`, name)
	if err != nil {
		return err
	}
	if len(owned) > 0 {
		return ErrInUse.Say("user %q is owner or backup of %s; give them another one first", name, list(owned))
	}
	if err := s.askBeforeDelete(ctx, tx, by, reason, object("user", name)); err != nil {
		return err
	}
	for _, q := range []string{`DELETE FROM team_members WHERE member = $1`, `DELETE FROM user_group_members WHERE member = $1`, `DELETE FROM user_tokens WHERE user_name = $1`, `DELETE FROM users WHERE name = $1`} {
		if _, err := tx.Exec(ctx, q, name); err != nil {
			return err
		}
	}
	return record(ctx, tx, event("user.deleted", by, reason, object("user", name), map[string]any{"id": u.ID}))
}

// list names the first few of names.
func list(names []string) string {
	if len(names) > 8 {
		return strings.Join(names[:8], ", ") + " and more"
	}
	return strings.Join(names, ", ")
}

// SetPassword sets a user's password and ends his login sessions. Users set
// their own, showing the current one if they have one; administrators set
// anyone's.
func (s *Service) SetPassword(ctx context.Context, by audit.Actor, reason, name, current, password string) error {
	if err := checkPassword(name, password); err != nil {
		return err
	}
	if err := checkReason(reason, false); err != nil {
		return err
	}
	if err := s.maySetPassword(ctx, by, name, current); err != nil {
		return err
	}
	hash, err := s.hash.hash(ctx, password)
	if err != nil {
		return err
	}
	return s.change(ctx, func(tx *audit.Tx) error {
		u, err := readUser(ctx, tx, name)
		if err != nil {
			return err
		}
		if err := swap(ctx, tx, `UPDATE users SET password = $1, revision = revision + 1 WHERE name = $2 AND revision = $3`, hash, name, u.revision); err != nil {
			return err
		}
		sessions, err := readNames(ctx, tx, `SELECT id FROM user_tokens WHERE user_name = $1 AND kind = $2 AND revoked = 0 ORDER BY id`, name, Session)
		if err != nil {
			return err
		}
		if err := s.endTokensTx(ctx, tx, sessions...); err != nil {
			return err
		}
		return record(ctx, tx, event("user.password_set", by, reason, object("user", name), nil))
	})
}

func (s *Service) maySetPassword(ctx context.Context, by audit.Actor, name, current string) error {
	if by.Kind != audit.KindUser || by.Name != name {
		return mayGovern(ctx, s.db, by)
	}
	stored, err := readPassword(ctx, s.db, name)
	if err != nil || stored == "" {
		return err
	}
	if !s.limits.allow(name, "", s.now()) {
		return ErrLoginLimit
	}
	switch ok, err := s.hash.verify(ctx, current, stored); {
	case err != nil:
		return err
	case !ok:
		return ErrLogin.Say("the current password is wrong")
	}
	return nil
}

// PutTeam creates or updates a team with exactly the given members; it reports
// whether anything changed. ID and Created of t are ignored.
func (s *Service) PutTeam(ctx context.Context, by audit.Actor, reason string, t Team) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.PutTeamTx(ctx, tx, by, reason, t)
		return err
	})
	return changed, err
}

// PutTeamTx is PutTeam inside a change.
func (s *Service) PutTeamTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, t Team) (bool, error) {
	if err := t.validate(); err != nil {
		return false, err
	}
	if err := checkReason(reason, false); err != nil {
		return false, err
	}
	found, err := readTeams(ctx, tx, t.Name)
	if err != nil {
		return false, err
	}
	for _, m := range t.Members {
		if err := exists(ctx, tx, "team "+t.Name+": member", m); err != nil {
			return false, err
		}
	}
	if len(found) == 0 {
		t.ID = id.At(id.Team, s.now())
		if _, err := tx.Exec(ctx, `INSERT INTO teams (name, id, description, created, revision) VALUES ($1, $2, $3, $4, 1)`, t.Name, t.ID, t.Description, storage.Micros(s.now())); err != nil {
			return false, err
		}
		if err := s.setMembers(ctx, tx, t); err != nil {
			return false, err
		}
		return true, record(ctx, tx, event("team.created", by, reason, object("team", t.Name), map[string]any{"id": t.ID, "members": t.Members}))
	}
	old := found[0]
	fields := t.changes(old)
	if len(fields) == 0 {
		return false, nil
	}
	if err := swap(ctx, tx, `UPDATE teams SET description = $1, revision = revision + 1 WHERE name = $2 AND revision = $3`, t.Description, t.Name, old.revision); err != nil {
		return false, err
	}
	if !slices.Equal(old.Members, t.Members) {
		if err := s.setMembers(ctx, tx, t); err != nil {
			return false, err
		}
		if s.follower != nil {
			if err := s.follower.TeamChanged(ctx, tx, by, reason, old, t); err != nil {
				return false, err
			}
		}
	}
	return true, record(ctx, tx, event("team.updated", by, reason, object("team", t.Name), fields))
}

func (s *Service) setMembers(ctx context.Context, tx *audit.Tx, t Team) error {
	if _, err := tx.Exec(ctx, `DELETE FROM team_members WHERE team = $1`, t.Name); err != nil {
		return err
	}
	for _, m := range t.Members {
		if _, err := tx.Exec(ctx, `INSERT INTO team_members (team, member) VALUES ($1, $2)`, t.Name, m); err != nil {
			return err
		}
	}
	return nil
}

// exists refuses the name of a user who is not there.
func exists(ctx context.Context, q querier, what, name string) error {
	found, err := readNames(ctx, q, `SELECT name FROM users WHERE name = $1`, name)
	if err == nil && len(found) == 0 {
		return ErrInvalid.Say("%s: there is no user %q; create it first", what, name)
	}
	return err
}

// DeleteTeam deletes a team. It refuses while agents belong to it.
func (s *Service) DeleteTeam(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error { return s.DeleteTeamTx(ctx, tx, by, reason, name) })
}

// DeleteTeamTx is DeleteTeam inside a change.
func (s *Service) DeleteTeamTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	t, err := readTeam(ctx, tx, name)
	if err != nil {
		return err
	}
	agents, err := readNames(ctx, tx, `SELECT name FROM agents WHERE team = $1 ORDER BY name`, name)
	if err != nil {
		return err
	}
	if len(agents) > 0 {
		return ErrInUse.Say("team %q has the agents %s; move them first", name, list(agents))
	}
	if err := s.askBeforeDelete(ctx, tx, by, reason, object("team", name)); err != nil {
		return err
	}
	for _, q := range []string{`DELETE FROM team_members WHERE team = $1`, `DELETE FROM teams WHERE name = $1`} {
		if _, err := tx.Exec(ctx, q, name); err != nil {
			return err
		}
	}
	return record(ctx, tx, event("team.deleted", by, reason, object("team", name), map[string]any{"id": t.ID}))
}
