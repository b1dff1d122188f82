package identity

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/storage"
)

// Refusals of a person whom an identity provider vouches for.
var (
	ErrNotJoined = fault.New(fault.Denied, "not_registered", "you are not registered here; ask an administrator to create a user with your e-mail address")
	ErrNameTaken = fault.New(fault.Denied, "name_taken", "another user has your name here; ask an administrator")
	ErrTurnedOff = fault.New(fault.Denied, "user_disabled", "your user was disabled by an administrator; ask one")
)

// Vouched is what an identity provider says of a person.
type Vouched struct {
	Issuer, Subject string // both needed; together they never name somebody else
	Name            string // the login they would like, if they are new
	Email           string // only if the provider has verified it
	DisplayName     string
	// Role is the role the provider's groups lead to. Empty leaves it: new
	// people become viewers.
	Role string
	// Groups says of groups of ours whether the person is to be a member. Others
	// are left alone.
	Groups map[string]bool
}

// AdmitTx returns the user a provider vouches for, brought up to date: the one
// linked to its subject; else a local one with the same verified e-mail
// address, who is linked; else, if join is set, a new one. Who was disabled
// because the provider had lost them is enabled again; whom an administrator
// disabled is refused with ErrTurnedOff. Other refusals: ErrNotJoined, ErrNameTaken.
func (s *Service) AdmitTx(ctx context.Context, tx *audit.Tx, v Vouched, join bool) (User, error) {
	u, err := s.vouchedUser(ctx, tx, v, join)
	if err != nil {
		return User{}, err
	}
	if u.Disabled && !u.Gone {
		return u, ErrTurnedOff
	}
	reason := "vouched for by " + v.Issuer
	next := u
	next.Disabled, next.Gone = false, false
	next.Email, next.DisplayName = cmp.Or(v.Email, u.Email), cmp.Or(cutRunes(v.DisplayName, 200), u.DisplayName)
	next.Role = cmp.Or(v.Role, u.Role)
	_, err = s.PutUserTx(ctx, tx, audit.System, reason, next)
	if errors.Is(err, ErrLastAdmin) { // nobody could govern any more
		next.Role = u.Role
		_, err = s.PutUserTx(ctx, tx, audit.System, reason, next)
	}
	if err != nil {
		return User{}, err
	}
	if err := s.mapGroups(ctx, tx, reason, u.Name, v.Groups); err != nil {
		return User{}, err
	}
	return readUser(ctx, tx, u.Name)
}

func (s *Service) vouchedUser(ctx context.Context, tx *audit.Tx, v Vouched, join bool) (User, error) {
	names, err := readNames(ctx, tx, `SELECT name FROM users WHERE issuer = $1 AND subject = $2`, v.Issuer, v.Subject)
	if err != nil {
		return User{}, err
	}
	if len(names) == 1 {
		return readUser(ctx, tx, names[0])
	}
	if v.Email != "" {
		if names, err = readNames(ctx, tx, `SELECT name FROM users WHERE lower(email) = $1 AND issuer = '' ORDER BY name`, strings.ToLower(v.Email)); err != nil {
			return User{}, err
		}
		if len(names) == 1 { // two with one address: a person must say which
			return s.link(ctx, tx, names[0], v)
		}
	}
	if !join {
		return User{}, ErrNotJoined
	}
	switch _, err := readUser(ctx, tx, v.Name); {
	case err == nil:
		return User{}, ErrNameTaken
	case !errors.Is(err, ErrNotFound):
		return User{}, err
	}
	u := User{Name: v.Name, Email: v.Email, DisplayName: cutRunes(v.DisplayName, 200), Role: cmp.Or(v.Role, Viewer)}
	if _, err := s.PutUserTx(ctx, tx, audit.System, "joined: vouched for by "+v.Issuer, u); err != nil {
		return User{}, err
	}
	return s.link(ctx, tx, u.Name, v)
}

// link ties a user to a provider's subject.
func (s *Service) link(ctx context.Context, tx *audit.Tx, name string, v Vouched) (User, error) {
	if err := swap(ctx, tx, `UPDATE users SET issuer = $1, subject = $2, revision = revision + 1 WHERE name = $3 AND issuer = ''`, v.Issuer, v.Subject, name); err != nil {
		return User{}, err
	}
	if err := record(ctx, tx, event("user.linked", audit.System, "", object("user", name), map[string]any{"issuer": v.Issuer, "subject": v.Subject})); err != nil {
		return User{}, err
	}
	return readUser(ctx, tx, name)
}

// mapGroups makes the user a member of exactly those of the groups that say so.
// A group that is not there yet is nobody's.
func (s *Service) mapGroups(ctx context.Context, tx *audit.Tx, reason, user string, in map[string]bool) error {
	for name, member := range in {
		found, err := readGroups(ctx, tx, name)
		if err != nil || len(found) == 0 {
			if err != nil {
				return err
			}
			continue
		}
		g := found[0]
		if g.Has(user) == member {
			continue
		}
		g.Members = slices.DeleteFunc(slices.Clone(g.Members), func(m string) bool { return m == user })
		if member {
			g.Members = append(g.Members, user)
		}
		if _, err := s.PutGroupTx(ctx, tx, audit.System, reason, g); err != nil {
			return err
		}
	}
	return nil
}

// GoneTx disables a user whom their provider no longer vouches for, ends their
// sessions and API tokens, and takes them out of the mapped groups. It reports
// whether they were there. The last active administrator stays: ErrLastAdmin.
func (s *Service) GoneTx(ctx context.Context, tx *audit.Tx, reason, name string) (bool, error) {
	u, err := readUser(ctx, tx, name)
	if err != nil || u.Disabled {
		return false, err
	}
	u.Disabled, u.Gone = true, true
	if _, err := s.PutUserTx(ctx, tx, audit.System, reason, u); err != nil {
		return false, err
	}
	_, err = s.SignOutTx(ctx, tx, audit.System, reason, name)
	return true, err
}

// SignOutTx ends every session and API token of a user, and returns how many.
func (s *Service) SignOutTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) (int, error) {
	return s.signOut(ctx, tx, by, reason, name, "")
}

func (s *Service) signOut(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name, kind string) (int, error) {
	now := storage.Micros(s.now())
	ended, err := collect(ctx, tx, func(rows *sql.Rows) (id string, err error) { return id, rows.Scan(&id) },
		`SELECT id FROM user_tokens WHERE user_name = $2 AND revoked = 0 AND expires > $1 AND ($3 = '' OR kind = $3) ORDER BY id`, now, name, kind)
	if err != nil || len(ended) == 0 {
		return 0, err
	}
	if err := s.endTokensTx(ctx, tx, ended...); err != nil {
		return 0, err
	}
	tx.Record(event("user.signed_out", by, reason, object("user", name), map[string]any{"tokens": ended}))
	return len(ended), nil
}

// SignOut ends every session of a user everywhere and, if all is set, their API
// tokens too; it returns how many. Users sign themselves out, administrators anyone.
func (s *Service) SignOut(ctx context.Context, by audit.Actor, reason, name string, all bool) (n int, err error) {
	if err := checkReason(reason, false); err != nil {
		return 0, err
	}
	kind := Session
	if all {
		kind = ""
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if by.Kind != audit.KindUser || by.Name != name {
			if err := mayGovern(ctx, tx, by); err != nil {
				return err
			}
		}
		if _, err := readUser(ctx, tx, name); err != nil {
			return err
		}
		n, err = s.signOut(ctx, tx, by, reason, name, kind)
		return err
	})
	return n, err
}

// SessionFor starts a session of SessionLife for a user who has proved who they
// are elsewhere: via says where, for the log. The user's identifier keeps a
// proof from passing to whoever has the name by now.
func (s *Service) SessionFor(ctx context.Context, name, userID, via, remote string) (t Token, value string, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		u, err := readUser(ctx, tx, name)
		if errors.Is(err, ErrNotFound) || err == nil && u.ID != userID {
			return ErrLogin
		}
		if err != nil {
			return err
		}
		ev := audit.Event{Type: "user.logged_in", Remote: remote}
		t, value, err = s.addTokenTx(ctx, tx, audit.Person(u.ID, u.Name), "signed in at "+via, u.Name, Token{Kind: Session, Name: "login"}, SessionLife, ev)
		return err
	})
	return t, value, err
}

// AllowLogin takes one attempt to sign in from a network; false when there
// were too many.
func (s *Service) AllowLogin(remote string) bool {
	return s.limits.networks.take(network(remote), s.now())
}

// RefusedLogin records that somebody could not sign in; why is a code. u is who
// it was, as far as known.
func (s *Service) RefusedLogin(u User, why, remote string) {
	ev := event(audit.AuthRefused, audit.Actor{Kind: audit.KindUser, ID: u.ID, Name: u.Name}, "", "login", map[string]any{"code": why})
	ev.Remote = remote
	s.log.Later(ev)
}

// cutRunes bounds a text from outside, without what could paint over a terminal.
func cutRunes(s string, most int) string {
	if checkText("", s, 1<<20) != nil {
		return ""
	}
	if r := []rune(s); len(r) > most {
		return string(r[:most])
	}
	return s
}
