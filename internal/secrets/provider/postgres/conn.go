package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
)

// Errors of this package.
var (
	ErrDSN    = fault.New(fault.Invalid, "postgres_dsn", "the value must be postgres://USER:PASSWORD@HOST/DATABASE")
	ErrServer = fault.New(fault.Upstream, "postgres_server", "the PostgreSQL server did not do what was asked")
	ErrAlive  = fault.New(fault.Upstream, "postgres_alive", "the credential still logs in")
)

const connectTime = 10 * time.Second

var roleForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_$-]{0,62}$`)

// parse reads a connection string. Its errors do not show it.
func parse(v secrets.Value) (*url.URL, error) {
	u, err := url.Parse(string(v.Expose()))
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.User.Username() == "" || u.Host == "" {
		return nil, ErrDSN
	}
	return u, nil
}

// with returns base for another user.
func with(base *url.URL, user, password string) secrets.Value {
	u := *base
	u.User = url.UserPassword(user, password)
	return secrets.NewValue([]byte(u.String()))
}

// connect logs in with a connection string.
func connect(ctx context.Context, v secrets.Value) (*pgx.Conn, error) {
	if _, err := parse(v); err != nil {
		return nil, err
	}
	cfg, err := pgx.ParseConfig(string(v.Expose()))
	if err != nil {
		return nil, ErrDSN // its own words would show the string
	}
	cfg.ConnectTimeout = connectTime
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // works behind poolers
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, failure(err)
	}
	return conn, nil
}

// failure turns an error of the driver into one that may be shown.
func failure(err error) error {
	var pg *pgconn.PgError
	var dial net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pg):
		return ErrServer.Say("the PostgreSQL server said %s (%s)", pg.Message, pg.Code).With(refusal{pg.Code})
	case errors.As(err, &dial):
		return ErrServer.Say("the PostgreSQL server cannot be reached")
	}
	return ErrServer.Say("the PostgreSQL server broke off")
}

// refusal keeps the SQLSTATE without what else a driver's error holds.
type refusal struct{ code string }

func (r refusal) Error() string { return "SQLSTATE " + r.code }

func state(err error) string {
	var r refusal
	if errors.As(err, &r) {
		return r.code
	}
	return ""
}

// refused reports whether err says that the server knows the credential no
// more, rather than that the server has a problem.
func refused(err error) bool {
	return state(err) == "28P01" || state(err) == "28000"
}

// dead reports whether a login with v is refused, which is how the end of a
// credential is known. An error says that it cannot be known now.
func dead(ctx context.Context, v secrets.Value) (bool, error) {
	conn, err := connect(ctx, v)
	if err == nil {
		_ = conn.Close(ctx)
		return false, nil
	}
	if refused(err) {
		return true, nil
	}
	return false, err
}

// quoted returns an identifier for a statement.
func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }

// fresh returns a new password: 160 random bits in letters and digits.
func fresh() string { return rand.Text() + strings.ToLower(rand.Text()[:6]) }

// verifier returns what the server stores instead of a password (RFC 5803 in
// PostgreSQL's form). Passwords of letters and digits need no SASLprep.
func verifier(password string) string {
	const rounds = 4096
	salt := make([]byte, 16)
	rand.Read(salt) // crypto/rand.Read never fails
	salted, err := pbkdf2.Key(sha256.New, password, salt, rounds, sha256.Size)
	if err != nil {
		panic("postgres: PBKDF2 refuses 32 bytes: " + err.Error())
	}
	mac := func(text string) []byte {
		m := hmac.New(sha256.New, salted)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", rounds, b64(salt), b64(stored[:]), b64(mac("Server Key")))
}

// end closes a connection whether or not its context is over.
func end(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}
