package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/lease"
)

// Maker makes a role per lease. The secret's value is the connection string of
// a role that may create roles. Settings: roles (the group roles that a lease
// is put into, at least one) and connections (how many each may have, 10 if not
// said).
type Maker struct{}

const defaultConnections = 10

// Check implements lease.Maker.
func (Maker) Check(settings map[string]string) error {
	for k := range settings {
		if k != "roles" && k != "connections" {
			return lease.ErrSettings.Say("settings: %.40q is not a setting of postgres; it has roles, connections, ttl", k)
		}
	}
	if _, err := groups(settings); err != nil {
		return err
	}
	_, err := limit(settings)
	return err
}

func groups(settings map[string]string) ([]string, error) {
	var out []string
	for name := range strings.SplitSeq(settings["roles"], ",") {
		name = strings.TrimSpace(name)
		if !roleForm.MatchString(name) {
			return nil, lease.ErrSettings.Say("settings: roles: must be the group roles that a lease is put into, such as reporting_readers")
		}
		out = append(out, quoted(name))
	}
	return out, nil
}

func limit(settings map[string]string) (int, error) {
	text := settings["connections"]
	if text == "" {
		return defaultConnections, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1000 {
		return 0, lease.ErrSettings.Say("settings: connections: must be 1 to 1000")
	}
	return n, nil
}

// prefix begins the names of all roles that we make: only such are ever dropped.
const prefix = "cs_"

// Plan implements lease.Maker. The role's name says whose it is.
func (Maker) Plan(l lease.Lease, root secrets.Value) (secrets.Value, string, error) {
	base, err := parse(root)
	if err != nil {
		return secrets.Value{}, "", err
	}
	who := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, l.Agent)
	name := prefix + who[:min(len(who), 24)] + "_" + strings.ToLower(rand.Text()[:12])
	return with(base, name, fresh()), name, nil
}

// Make implements lease.Maker.
func (Maker) Make(ctx context.Context, l lease.Lease, root, credential secrets.Value, settings map[string]string) error {
	in, err := groups(settings)
	if err != nil {
		return err
	}
	most, err := limit(settings)
	if err != nil {
		return err
	}
	u, err := parse(credential)
	if err != nil {
		return err
	}
	conn, err := connect(ctx, root)
	if err != nil {
		return err
	}
	defer end(conn)
	password, _ := u.User.Password()
	_, err = conn.Exec(ctx, "CREATE ROLE "+quoted(l.Name)+" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT "+strconv.Itoa(most)+
		" PASSWORD '"+verifier(password)+"' VALID UNTIL '"+l.Expires.UTC().Format(time.RFC3339)+"' IN ROLE "+strings.Join(in, ", "))
	return failure(err)
}

// End implements lease.Maker: no more logins, then no more sessions, then no
// more role; and a login is tried.
func (Maker) End(ctx context.Context, l lease.Lease, root, credential secrets.Value) error {
	if !strings.HasPrefix(l.Name, prefix) {
		return ErrServer.Say("the role %.63q is not one that was made for a lease", l.Name)
	}
	conn, err := connect(ctx, root)
	if err != nil {
		return err
	}
	defer end(conn)
	dropErr := drop(ctx, conn, l.Name)
	switch gone, err := dead(ctx, credential); {
	case err != nil:
		return errors.Join(dropErr, err)
	case !gone:
		return ErrAlive.Say("the role %s still logs in", l.Name)
	}
	return dropErr
}

func drop(ctx context.Context, conn *pgx.Conn, name string) error {
	role := quoted(name)
	if _, err := conn.Exec(ctx, "ALTER ROLE "+role+" NOLOGIN PASSWORD NULL"); err != nil {
		if state(failure(err)) == "42704" { // there is no such role
			return nil
		}
		return failure(err)
	}
	// What follows needs membership, which a role that is no superuser must give itself.
	if _, err := conn.Exec(ctx, "GRANT "+role+" TO CURRENT_USER"); err != nil && conn.IsClosed() {
		return failure(err)
	}
	if err := cut(ctx, conn, name); err != nil {
		return err
	}
	for _, q := range []string{"REASSIGN OWNED BY " + role + " TO CURRENT_USER", "DROP OWNED BY " + role, "DROP ROLE IF EXISTS " + role} {
		if _, err := conn.Exec(ctx, q); err != nil {
			return failure(err)
		}
	}
	return nil
}
