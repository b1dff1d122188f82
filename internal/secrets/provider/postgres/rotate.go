package postgres

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/rotation"
)

// Rotator alternates between two users of a PostgreSQL server, of which one is
// in use. Its settings are users (two names) and, of the engine, admin: a
// secret whose role may alter both. The value is a connection string.
type Rotator struct{}

// Check implements rotation.Rotator.
func (Rotator) Check(_ secrets.Spec, settings map[string]string) error {
	for k := range settings {
		if k != "users" {
			return rotation.ErrSettings.Say("rotation: %.40q is not a setting of postgres; it has users, admin, every, overlap", k)
		}
	}
	_, err := users(settings)
	return err
}

func users(settings map[string]string) ([]string, error) {
	var out []string
	for name := range strings.SplitSeq(settings["users"], ",") {
		out = append(out, strings.TrimSpace(name))
	}
	if len(out) != 2 || out[0] == out[1] || !roleForm.MatchString(out[0]) || !roleForm.MatchString(out[1]) {
		return nil, rotation.ErrSettings.Say("rotation: users: must be two roles, such as app_a,app_b")
	}
	return out, nil
}

// Create implements rotation.Rotator: a password for the user that is idle. The
// server hears of it in Set.
func (Rotator) Create(_ context.Context, w rotation.Work) (secrets.Value, string, error) {
	both, err := users(w.Settings)
	if err != nil {
		return secrets.Value{}, "", err
	}
	now, err := parse(w.Current.Value)
	if err != nil {
		return secrets.Value{}, "", err
	}
	i := slices.Index(both, now.User.Username())
	if i < 0 {
		return secrets.Value{}, "", rotation.ErrSettings.Say("rotation: users: the value's user is neither %s nor %s; put a value with one of them first", both[0], both[1])
	}
	idle := both[1-i]
	return with(now, idle, fresh()), idle, nil
}

// Set implements rotation.Rotator.
func (Rotator) Set(ctx context.Context, w rotation.Work) error {
	if conn, err := connect(ctx, w.Pending.Value); err == nil {
		end(conn)
		return nil // it was set before
	}
	u, err := parse(w.Pending.Value)
	if err != nil {
		return err
	}
	password, _ := u.User.Password()
	return admin(ctx, w, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "ALTER ROLE "+quoted(u.User.Username())+" WITH LOGIN PASSWORD '"+verifier(password)+"' VALID UNTIL 'infinity'")
		return failure(err)
	})
}

// Test implements rotation.Rotator.
func (Rotator) Test(ctx context.Context, w rotation.Work) error {
	conn, err := connect(ctx, w.Pending.Value)
	if err != nil {
		return err
	}
	defer end(conn)
	var one int
	return failure(conn.QueryRow(ctx, "SELECT 1").Scan(&one))
}

// Retire implements rotation.Rotator: the role can log in no more, and if its
// password leaked its sessions end. What the value was is tried.
func (Rotator) Retire(ctx context.Context, w rotation.Work, ref string) error {
	both, err := users(w.Settings)
	if err != nil {
		return err
	}
	if ref == "" && !w.Previous.Value.IsZero() {
		u, err := parse(w.Previous.Value)
		if err != nil {
			return nil // it was never a role's
		}
		ref = u.User.Username()
	}
	if now, err := parse(w.Current.Value); err != nil || now.User.Username() == ref || !slices.Contains(both, ref) {
		return nil // in use, or not ours to end
	}
	err = admin(ctx, w, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "ALTER ROLE "+quoted(ref)+" WITH NOLOGIN PASSWORD NULL"); err != nil && state(failure(err)) != "42704" { // no such role
			return failure(err)
		}
		if err := cut(ctx, conn, ref); err != nil && (w.Urgent || state(err) != "42501") { // not permitted
			return err
		}
		return nil
	})
	if err != nil || w.Previous.Value.IsZero() {
		return err
	}
	gone, err := dead(ctx, w.Previous.Value)
	if err == nil && !gone {
		err = ErrAlive.Say("the role %s still logs in with its former password, although its login was taken away", ref)
	}
	return err
}

// cut ends the sessions of a role.
func cut(ctx context.Context, conn *pgx.Conn, role string) error {
	_, err := conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND pid <> pg_backend_pid()", role)
	return failure(err)
}

func admin(ctx context.Context, w rotation.Work, fn func(*pgx.Conn) error) error {
	if w.Admin.IsZero() {
		return rotation.ErrSettings.Say("rotation: admin: name the secret of a role that may alter %s", w.Settings["users"])
	}
	conn, err := connect(ctx, w.Admin)
	if err != nil {
		return err
	}
	defer end(conn)
	return fn(conn)
}
