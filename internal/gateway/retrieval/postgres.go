package retrieval

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/dial"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/knowledge"
	"github.com/countersign/countersign/internal/secrets"
)

// engineTime is how long an engine may take when its connection does not say.
const engineTime = 20 * time.Second

// table is a table of a PostgreSQL database that is not ours. One connection to
// it per call: the credential is injected for the call, and may be another for
// the next.
type table struct{ inject gateway.Injector }

func within(ctx context.Context, c connections.Connection) (context.Context, context.CancelFunc) {
	d := c.Timeout
	if d <= 0 {
		d = engineTime
	}
	return context.WithTimeout(ctx, d)
}

func (e table) search(ctx context.Context, j job, a ask, visit func(mapping.Document) bool) error {
	m := j.call.Connection.Retrieval
	q := builder{m: *m}
	q.visible(j.rights)
	for _, f := range [][2]string{{m.Fields.Owner, a.Filters.Owner}, {m.Fields.Classification, a.Filters.Classification}, {m.Fields.Source, a.Filters.Source}, {m.Fields.Collection, a.Filters.Collection}} {
		if f[0] != "" && f[1] != "" {
			q.where = append(q.where, column(f[0])+"::text = "+q.mark(f[1]))
		}
	}
	order := ""
	switch words := knowledge.Words(a.Query); {
	case a.vector != nil && m.Vector == "":
		return errVector
	case a.vector != nil:
		q.where = append(q.where, column(m.Vector)+" IS NOT NULL")
		order = column(m.Vector) + " <=> " + q.mark(literal(a.vector)) + "::vector"
	case len(words) == 0:
		return nil
	default:
		any, text := q.words(words), q.text()
		q.where = append(q.where, text+" @@ "+any)
		order = "ts_rank(" + text + ", " + any + ", 1) DESC"
	}
	return e.rows(ctx, j, q.query(order+", "+column(m.Fields.ID)+`::text COLLATE "C"`), q.args, visit)
}

func (e table) get(ctx context.Context, j job, id string) (mapping.Document, bool, error) {
	m := j.call.Connection.Retrieval
	q := builder{m: *m}
	q.visible(j.rights)
	q.where = append(q.where, column(m.Fields.ID)+"::text = "+q.mark(id))
	var doc mapping.Document
	found := 0
	err := e.rows(ctx, j, q.query(column(m.Fields.ID)+"::text"), q.args, func(d mapping.Document) bool { doc = d; found++; return found < 2 })
	return doc, found == 1, err // of two with one id nobody knows which is meant
}

// builder makes a query of which only the mapping's names are text; all that an
// agent says is a parameter.
type builder struct {
	m     mapping.Mapping
	args  []any
	where []string
}

func (b *builder) mark(v any) string {
	b.args = append(b.args, v)
	return fmt.Sprintf("$%d", len(b.args))
}

func column(name string) string { return pgx.Identifier{name}.Sanitize() }

// visible asks for what may be read alone.
func (b *builder) visible(r rights) {
	var any []string
	for _, f := range []struct {
		column string
		names  []string
	}{{b.m.Fields.Readers, r.readers}, {b.m.Fields.Users, r.users}, {b.m.Fields.Groups, r.groups}} {
		if f.column != "" {
			any = append(any, column(f.column)+"::text[] && "+b.mark(append([]string{}, f.names...))+"::text[]")
		}
	}
	if b.m.Unlisted == mapping.Everyone {
		none := []string{"TRUE"}
		for _, c := range []string{b.m.Fields.Readers, b.m.Fields.Users, b.m.Fields.Groups} {
			if c != "" {
				none = append(none, "coalesce(cardinality("+column(c)+"::text[]), 0) = 0")
			}
		}
		any = append(any, "("+strings.Join(none, " AND ")+")")
	}
	b.where = append(b.where, "("+strings.Join(any, " OR ")+")")
}

func (b *builder) language() string {
	l := b.m.Language
	if l == "" {
		l = "simple"
	}
	return b.mark(l) + "::text::regconfig"
}

func (b *builder) words(words []string) string {
	parts := make([]string, len(words))
	for i, w := range words {
		parts[i] = "plainto_tsquery(" + b.language() + ", " + b.mark(w) + ")"
	}
	return "(" + strings.Join(parts, " || ") + ")"
}

func (b *builder) text() string {
	text := "coalesce(" + column(b.m.Fields.Text) + "::text, '')"
	if b.m.Fields.Title != "" {
		text = "coalesce(" + column(b.m.Fields.Title) + "::text, '') || ' ' || " + text
	}
	return "to_tsvector(" + b.language() + ", " + text + ")"
}

// query selects the columns in the order of the fields of a document.
func (b *builder) query(order string) string {
	f := b.m.Fields
	var columns []string
	for _, c := range []string{f.ID, f.Title, f.Text, f.Owner, f.Classification, f.Source, f.Collection} {
		if c == "" {
			columns = append(columns, "''")
		} else {
			columns = append(columns, "coalesce("+column(c)+"::text, '')")
		}
	}
	for _, c := range []string{f.Readers, f.Users, f.Groups} {
		if c == "" {
			columns = append(columns, "'{}'::text[]")
		} else {
			columns = append(columns, "coalesce("+column(c)+"::text[], '{}')")
		}
	}
	return "SELECT " + strings.Join(columns, ", ") + " FROM " + pgx.Identifier(strings.Split(b.m.Table, ".")).Sanitize() +
		" WHERE " + strings.Join(b.where, " AND ") + " ORDER BY " + order + fmt.Sprintf(" LIMIT %d", mapping.MaxResults)
}

// rows runs a query in a transaction that can change nothing.
func (e table) rows(ctx context.Context, j job, query string, args []any, visit func(mapping.Document) bool) error {
	ctx, cancel := within(ctx, j.call.Connection)
	defer cancel()
	conn, err := e.connect(ctx, j)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // it is closed whatever it says
	}()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return broken(err)
	}
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return broken(err)
	}
	defer rows.Close()
	m := *j.call.Connection.Retrieval
	size := 0
	for rows.Next() {
		var d mapping.Document
		var readers, users, groups []string
		if err := rows.Scan(&d.ID, &d.Title, &d.Text, &d.Owner, &d.Classification, &d.Source, &d.Collection, &readers, &users, &groups); err != nil {
			return broken(err)
		}
		if size += len(d.Text); size > maxEngine {
			return gateway.ErrAnswer
		}
		if d, ok := m.Named(d, readers, users, groups); ok && !visit(d) {
			return nil
		}
	}
	return broken(rows.Err())
}

// broken says in our words that the database failed: its own may hold what may
// not be read.
func broken(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return gateway.ErrTimeout.With(err)
	}
	return gateway.ErrUpstream.Say("the connection's engine could not be asked").With(err)
}

// connect opens a connection for one call.
func (e table) connect(ctx context.Context, j job) (*pgx.Conn, error) {
	c := j.call.Connection
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, gateway.ErrURL.With(err)
	}
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = "5432"
	}
	cfg, err := pgx.ParseConfig("postgres://" + net.JoinHostPort(host, port) + u.EscapedPath() + "?sslmode=disable&application_name=countersign")
	if err != nil {
		return nil, gateway.ErrURL.With(err)
	}
	cfg.User, cfg.Password, cfg.Fallbacks = "", "", nil
	cfg.DialFunc = dial.Dialer{Private: c.AllowPrivate, Within: engineTime}.DialContext
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil } // the dialer resolves what it checks
	if !c.AllowPrivate {
		cfg.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	}
	if c.Secret != "" {
		v, err := e.inject.Inject(ctx, j.receipt, secrets.Use{Call: j.call.ID, Secret: c.Secret, Connection: c.Name, Agent: j.call.Who.Agent.Name, Host: u.Host})
		if err != nil {
			return nil, gateway.ErrSecret.With(err)
		}
		user, password, ok := strings.Cut(string(v.Expose()), ":")
		v.Wipe()
		if !ok || user == "" {
			return nil, gateway.ErrSecret.Say("the connection signs in with its secret, so it must be USER:PASSWORD; ask its owner")
		}
		cfg.User, cfg.Password = user, password
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, broken(err)
	}
	return conn, nil
}
