package identity

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("identity: read a row: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// one returns the only element, or ErrNotFound naming what was looked for.
func one[T any](found []T, err error, what, name string) (T, error) {
	var zero T
	switch {
	case err != nil:
		return zero, err
	case len(found) == 0:
		return zero, ErrNotFound.Say("there is no %s %q", what, name)
	}
	return found[0], nil
}

// readUsers returns the user called name, or all if name is empty.
func readUsers(ctx context.Context, q querier, name string) ([]User, error) {
	const query = `SELECT id, name, email, display_name, role, disabled, password <> '', issuer, subject, gone, created, revision FROM users`
	scan := func(rows *sql.Rows) (u User, err error) {
		var created int64
		err = rows.Scan(&u.ID, &u.Name, &u.Email, &u.DisplayName, &u.Role, &u.Disabled, &u.Password, &u.Issuer, &u.Subject, &u.Gone, &created, &u.revision)
		u.Created = storage.Time(created)
		return u, err
	}
	if name == "" {
		return collect(ctx, q, scan, query+` ORDER BY name`)
	}
	return collect(ctx, q, scan, query+` WHERE name = $1`, name)
}

func readUser(ctx context.Context, q querier, name string) (User, error) {
	found, err := readUsers(ctx, q, name)
	return one(found, err, "user", name)
}

func readPassword(ctx context.Context, q querier, name string) (string, error) {
	found, err := collect(ctx, q, func(rows *sql.Rows) (p string, err error) { return p, rows.Scan(&p) },
		`SELECT password FROM users WHERE name = $1`, name)
	return one(found, err, "user", name)
}

// readTeams returns the team called name, or all if name is empty.
func readTeams(ctx context.Context, q querier, name string) ([]Team, error) {
	where, args := "", []any{}
	if name != "" {
		where, args = " WHERE t.name = $1", []any{name}
	}
	type row struct {
		Team
		member sql.NullString
	}
	rows, err := collect(ctx, q, func(rows *sql.Rows) (r row, err error) {
		var created int64
		err = rows.Scan(&r.ID, &r.Name, &r.Description, &created, &r.revision, &r.member)
		r.Created, r.Members = storage.Time(created), []string{}
		return r, err
	}, `SELECT t.id, t.name, t.description, t.created, t.revision, m.member
		FROM teams t LEFT JOIN team_members m ON m.team = t.name`+where+` ORDER BY t.name, m.member`, args...)
	if err != nil {
		return nil, err
	}
	var out []Team
	for _, r := range rows {
		if len(out) == 0 || out[len(out)-1].Name != r.Name {
			out = append(out, r.Team)
		}
		if r.member.Valid {
			last := &out[len(out)-1]
			last.Members = append(last.Members, r.member.String)
		}
	}
	return out, nil
}

func readTeam(ctx context.Context, q querier, name string) (Team, error) {
	found, err := readTeams(ctx, q, name)
	return one(found, err, "team", name)
}

// readAgents returns the agent called name, or all if name is empty.
func readAgents(ctx context.Context, q querier, name string) ([]Agent, error) {
	const query = `SELECT id, name, owner, COALESCE(backup, ''), COALESCE(team, ''), purpose, business_process, stage, labels, suspended, created, last_call, retired, revision FROM agents`
	if name == "" {
		return collect(ctx, q, scanAgent, query+` ORDER BY name`)
	}
	return collect(ctx, q, scanAgent, query+` WHERE name = $1`, name)
}

func scanAgent(rows *sql.Rows) (a Agent, err error) {
	var labels string
	var created, last, retired int64
	if err = rows.Scan(&a.ID, &a.Name, &a.Owner, &a.Backup, &a.Team, &a.Purpose, &a.BusinessProcess, &a.Stage, &labels, &a.Suspended, &created, &last, &retired, &a.revision); err != nil {
		return a, err
	}
	a.Created, a.LastCall, a.Retired = storage.Time(created), storage.Time(last), storage.Time(retired)
	if err = json.Unmarshal([]byte(labels), &a.Labels); err != nil {
		return a, fmt.Errorf("labels of agent %s: %w", a.Name, err)
	}
	return a, nil
}

func readAgent(ctx context.Context, q querier, name string) (Agent, error) {
	found, err := readAgents(ctx, q, name)
	return one(found, err, "agent", name)
}

// keyFilter selects keys; zero fields select all.
type keyFilter struct {
	id, agent string
	after     time.Time // expiring after
}

func readKeys(ctx context.Context, q querier, f keyFilter) ([]Key, error) {
	return collect(ctx, q, func(rows *sql.Rows) (k Key, err error) {
		var hash string
		var created, expires, revoked, used int64
		if err = rows.Scan(&k.ID, &k.Agent, &k.Prefix, &hash, &created, &expires, &revoked, &used, &k.Successor); err != nil {
			return k, err
		}
		var ok bool
		if k.hash, ok = parseDigest(hash); !ok {
			return k, fmt.Errorf("key %s holds no SHA-256", k.ID)
		}
		k.Created, k.Expires, k.Revoked, k.LastUsed = storage.Time(created), storage.Time(expires), storage.Time(revoked), storage.Time(used)
		return k, nil
	}, `SELECT id, agent, prefix, hash, created, expires, revoked, last_used, successor FROM agent_keys
		WHERE ($1 = '' OR id = $1) AND ($2 = '' OR agent = $2) AND expires > $3 ORDER BY agent, id`, f.id, f.agent, storage.Micros(f.after))
}

func readKey(ctx context.Context, q querier, id string) (Key, error) {
	found, err := readKeys(ctx, q, keyFilter{id: id})
	if id == "" {
		found = nil
	}
	return one(found, err, "key", id)
}

// readEnded returns the credentials of runs that were ended by hand and would
// otherwise still be valid after t.
func readEnded(ctx context.Context, q querier, t time.Time) (map[string]bool, error) {
	found, err := collect(ctx, q, func(rows *sql.Rows) (c string, err error) { return c, rows.Scan(&c) },
		`SELECT credential FROM agent_runs WHERE ended > 0 AND expires > $1`, storage.Micros(t))
	ended := make(map[string]bool, len(found))
	for _, c := range found {
		ended[c] = true
	}
	return ended, err
}

func readRun(ctx context.Context, q querier, run string) (Run, error) {
	found, err := collect(ctx, q, func(rows *sql.Rows) (r Run, err error) {
		var started, expires, ended int64
		err = rows.Scan(&r.ID, &r.Credential, &r.Agent, &r.StartedBy, &started, &expires, &ended)
		r.Started, r.Expires, r.Ended = storage.Time(started), storage.Time(expires), storage.Time(ended)
		return r, err
	}, `SELECT run, credential, agent, started_by, started, expires, ended FROM agent_runs WHERE run = $1`, run)
	return one(found, err, "run", run)
}

const tokenColumns = `SELECT t.id, t.user_name, t.kind, t.name, t.prefix, t.created, t.expires, t.revoked, t.last_used FROM user_tokens t`

func scanToken(rows *sql.Rows) (t Token, err error) {
	var created, expires, revoked, used int64
	err = rows.Scan(&t.ID, &t.User, &t.Kind, &t.Name, &t.Prefix, &created, &expires, &revoked, &used)
	t.Created, t.Expires, t.Revoked, t.LastUsed = storage.Time(created), storage.Time(expires), storage.Time(revoked), storage.Time(used)
	return t, err
}

func readTokens(ctx context.Context, q querier, user string) ([]Token, error) {
	return collect(ctx, q, scanToken, tokenColumns+` WHERE t.user_name = $1 ORDER BY t.id`, user)
}

func readToken(ctx context.Context, q querier, id string) (Token, error) {
	found, err := collect(ctx, q, scanToken, tokenColumns+` WHERE t.id = $1`, id)
	return one(found, err, "token", id)
}

func readTokenByHash(ctx context.Context, q querier, d digest) (Token, error) {
	found, err := collect(ctx, q, scanToken, tokenColumns+` WHERE t.hash = $1`, d.String())
	return one(found, err, "token", "presented")
}

// readNames returns one column of text.
func readNames(ctx context.Context, q querier, query string, args ...any) ([]string, error) {
	return collect(ctx, q, func(rows *sql.Rows) (n string, err error) { return n, rows.Scan(&n) }, query, args...)
}
