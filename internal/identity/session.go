package identity

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// The life of user tokens.
const (
	SessionLife = 12 * time.Hour
	TokenUsual  = 30 * 24 * time.Hour
	TokenMost   = 90 * 24 * time.Hour
	keepTokens  = 30 * 24 * time.Hour // rows of expired ones
)

// The kinds of user tokens.
const (
	Session = "session" // made by signing in
	API     = "api"     // named, made for programs
	Start   = "start"   // shown at the first start, for the first administrator to sign in with
)

// Token is a user token without its value.
type Token struct {
	ID       string
	User     string
	Kind     string
	Name     string
	Prefix   string
	Created  time.Time
	Expires  time.Time
	Revoked  time.Time
	LastUsed time.Time
}

// Status returns the state of the token at now.
func (t Token) Status(now time.Time) string {
	return Key{Expires: t.Expires, Revoked: t.Revoked}.Status(now)
}

// AuthenticateUser is the API's rest.Authenticator. It asks the store, so a
// revocation counts at once; when the store is unreachable nobody passes.
func (s *Service) AuthenticateUser(ctx context.Context, token string) (rest.Caller, error) {
	if token == "" {
		return rest.Caller{}, rest.ErrNoToken
	}
	if !WellFormed(TokenPrefix, token) {
		return rest.Caller{}, ErrToken
	}
	t, err := readTokenByHash(ctx, s.db, digestOf(token))
	if errors.Is(err, ErrNotFound) {
		return rest.Caller{}, ErrToken
	}
	if err != nil {
		return rest.Caller{}, err
	}
	now := s.now()
	if t.Status(now) != Active {
		return rest.Caller{}, ErrToken
	}
	u, err := readUser(ctx, s.db, t.User)
	if err != nil {
		return rest.Caller{}, err
	}
	if u.Disabled {
		return rest.Caller{}, ErrToken
	}
	s.uses.note(kindToken, t.ID, now)
	return rest.Caller{ID: u.ID, Name: u.Name, Role: u.Role, Credential: t.ID, Program: t.Kind == API}, nil
}

// Login checks a password and starts a session of SessionLife. remote is the
// network address it comes from. Refusals: ErrLogin, ErrLoginLimit.
func (s *Service) Login(ctx context.Context, name, password, remote string) (Token, string, error) {
	now := s.now()
	if !nameForm.MatchString(name) {
		name = "" // all malformed names are one nobody
	}
	if len(password) > 1024 {
		password = "" // no password is that long, and none is empty
	}
	if !s.limits.allow(name, remote, now) {
		return Token{}, "", ErrLoginLimit
	}
	u, stored, err := s.loginUser(ctx, name)
	if err != nil {
		return Token{}, "", err
	}
	ok, err := s.hash.verify(ctx, password, stored)
	if err != nil {
		return Token{}, "", err
	}
	if !ok || u.Disabled {
		s.refusedLogin(u, remote)
		return Token{}, "", ErrLogin
	}
	by := audit.Person(u.ID, u.Name)
	return s.addToken(ctx, by, "", u.Name, Token{Kind: Session, Name: "login"}, SessionLife, audit.Event{Type: "user.logged_in", Remote: remote})
}

// loginUser returns the user and his password hash, zero values if there is
// none: the caller goes on as if there were.
func (s *Service) loginUser(ctx context.Context, name string) (User, string, error) {
	if name == "" {
		return User{}, "", nil
	}
	u, err := readUser(ctx, s.db, name)
	if errors.Is(err, ErrNotFound) {
		return User{}, "", nil
	}
	if err != nil {
		return User{}, "", err
	}
	stored, err := readPassword(ctx, s.db, name)
	return u, stored, err
}

// refusedLogin records a refusal. A name that no user has is left out: people
// type passwords into the wrong field.
func (s *Service) refusedLogin(u User, remote string) {
	by := audit.Actor{Kind: audit.KindUser, ID: u.ID, Name: u.Name}
	ev := event(audit.AuthRefused, by, "", "login", map[string]any{"code": ErrLogin.Code})
	ev.Remote = remote
	s.log.Later(ev)
}

// Tokens returns a user's tokens, oldest first.
func (s *Service) Tokens(ctx context.Context, user string) ([]Token, error) {
	return readTokens(ctx, s.db, user)
}

// IssueToken makes a named API token for the person who asks, and returns it
// with its value, which is not kept. It expires after expiresIn, TokenUsual if
// that is zero. Nobody makes tokens for others: the log must be able to trust
// who acted.
func (s *Service) IssueToken(ctx context.Context, by audit.Actor, reason, name string, expiresIn time.Duration) (Token, string, error) {
	if by.Kind != audit.KindUser {
		return Token{}, "", ErrNotYours
	}
	return s.issueToken(ctx, by, reason, by.Name, name, expiresIn)
}

func (s *Service) issueToken(ctx context.Context, by audit.Actor, reason, user, name string, expiresIn time.Duration) (Token, string, error) {
	if strings.TrimSpace(name) == "" {
		return Token{}, "", ErrInvalid.Say("a token needs a name that says what it is for")
	}
	if err := checkText("the token's name", name, 100); err != nil {
		return Token{}, "", err
	}
	life, err := lifetime("the life of a token", expiresIn, TokenUsual, TokenMost)
	if err != nil {
		return Token{}, "", err
	}
	if err := checkReason(reason, false); err != nil {
		return Token{}, "", err
	}
	return s.addToken(ctx, by, reason, user, Token{Kind: API, Name: name}, life, audit.Event{Type: "user.token_issued"})
}

func (s *Service) addToken(ctx context.Context, by audit.Actor, reason, user string, t Token, life time.Duration, ev audit.Event) (Token, string, error) {
	var value string
	err := s.change(ctx, func(tx *audit.Tx) error {
		var err error
		t, value, err = s.addTokenTx(ctx, tx, by, reason, user, t, life, ev)
		return err
	})
	return t, value, err
}

func (s *Service) addTokenTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, user string, t Token, life time.Duration, ev audit.Event) (Token, string, error) {
	u, err := readUser(ctx, tx, user)
	if err != nil {
		return Token{}, "", err
	}
	if u.Disabled {
		return Token{}, "", ErrLogin
	}
	now, value := s.now().UTC().Truncate(time.Microsecond), mint(TokenPrefix)
	t.ID, t.User, t.Prefix, t.Created, t.Expires = id.At(id.Token, now), user, value[:shownChars], now, now.Add(life)
	if _, err := tx.Exec(ctx, `DELETE FROM user_tokens WHERE expires < $1`, storage.Micros(now.Add(-keepTokens))); err != nil {
		return Token{}, "", err
	}
	_, err = tx.Exec(ctx, `INSERT INTO user_tokens (id, user_name, kind, name, prefix, hash, created, expires, revoked, last_used) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0)`,
		t.ID, t.User, t.Kind, t.Name, t.Prefix, digestOf(value).String(), storage.Micros(t.Created), storage.Micros(t.Expires))
	if err != nil {
		return Token{}, "", err
	}
	ev.Actor, ev.Reason, ev.Object, ev.Credential = by, reason, object("user", user), t.ID
	ev.Detail = detail(map[string]any{"token": t.ID, "name": t.Name, "kind": t.Kind, "expires": t.Expires})
	tx.Record(ev)
	return t, value, nil
}

// RevokeToken ends a token at once; users end their own, administrators
// anyone's. Revoking a revoked token changes nothing.
func (s *Service) RevokeToken(ctx context.Context, by audit.Actor, reason, tokenID string) error {
	return s.revokeToken(ctx, by, reason, tokenID, "user.token_revoked")
}

// Logout ends the session that token names.
func (s *Service) Logout(ctx context.Context, by audit.Actor, tokenID string) error {
	return s.revokeToken(ctx, by, "", tokenID, "user.logged_out")
}

func (s *Service) revokeToken(ctx context.Context, by audit.Actor, reason, tokenID string, kind audit.Type) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	return s.change(ctx, func(tx *audit.Tx) error {
		t, err := readToken(ctx, tx, tokenID)
		if err != nil {
			return err
		}
		if by.Kind != audit.KindUser || by.Name != t.User {
			if err := mayGovern(ctx, tx, by); err != nil {
				return ErrNotFound.Say("there is no token %q of yours", tokenID).With(err)
			}
		}
		if !t.Revoked.IsZero() {
			return nil
		}
		if err := s.endTokensTx(ctx, tx, tokenID); err != nil {
			return err
		}
		ev := event(kind, by, reason, object("user", t.User), map[string]any{"token": tokenID})
		ev.Credential = tokenID
		tx.Record(ev)
		return nil
	})
}

// firstAdmin is the name of the user that the first start makes.
const firstAdmin = "admin"

// EnsureAdmin makes sure that an administrator can sign in. On the first start
// it makes the user "admin" with an API token, returned to be shown once. When
// later no active administrator has a password or a live token (the first one
// expired), it issues a new token to one of them: who can start the server
// holds its keys anyway. created reports whether there is a token to show.
func (s *Service) EnsureAdmin(ctx context.Context) (token string, created bool, err error) {
	const issuedAtStart = "issued at start, because no administrator could sign in"
	life := TokenMost
	err = s.change(ctx, func(tx *audit.Tx) error {
		token, created = "", false
		name, err := s.adminInNeed(ctx, tx)
		if err != nil || name == "" {
			return err
		}
		_, token, err = s.addTokenTx(ctx, tx, audit.System, issuedAtStart, name, Token{Kind: Start, Name: "first start"}, life, audit.Event{Type: "user.token_issued"})
		created = err == nil
		return err
	})
	if errors.Is(err, ErrConflict) { // another replica was first, and shows the token
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	return token, created, nil
}

// adminInNeed returns the administrator who needs a token to get in, making
// the first one, or "" if somebody can sign in.
func (s *Service) adminInNeed(ctx context.Context, tx *audit.Tx) (string, error) {
	admins, err := readNames(ctx, tx, `SELECT name FROM users WHERE role = $1 AND NOT disabled ORDER BY name`, Admin)
	if err != nil {
		return "", err
	}
	if len(admins) == 0 {
		u := User{Name: firstAdmin, Role: Admin, DisplayName: "Administrator"}
		made, err := s.PutUserTx(ctx, tx, audit.System, "first start", u)
		if !made {
			return "", err // another replica was first, and shows the token
		}
		return firstAdmin, err
	}
	able, err := readNames(ctx, tx, `SELECT u.name FROM users u WHERE u.role = $1 AND NOT u.disabled AND (u.password <> ''
		OR EXISTS (SELECT 1 FROM user_tokens t WHERE t.user_name = u.name AND t.revoked = 0 AND t.expires > $2)) LIMIT 1`, Admin, storage.Micros(s.now()))
	if err != nil || len(able) > 0 {
		return "", err
	}
	return admins[0], nil
}
