package signin

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
)

// How long things wait.
const (
	stateLife  = 10 * time.Minute // from StartLogin to the provider's answer
	ticketLife = 2 * time.Minute  // from there to FinishLogin
)

// CallbackPath is the path of the redirect URI to register at the provider.
const CallbackPath = "/api/v1/login/oidc/callback"

// Config says which provider, and who of those it knows may sign in. The zero
// Issuer is none.
type Config struct {
	Issuer, ClientID                  string
	Secret                            func() (string, error) // of the client; empty for a public one
	Scopes                            string
	CA                                []byte // PEM certificates to trust instead of the system's
	NameClaim, EmailClaim, GroupClaim string
	TrustEmail, Join                  bool
	Domains, RequireGroup             []string
	Roles, Groups                     map[string]string // provider group to role, to group of ours
	CheckEvery                        time.Duration
}

// Options of a Service; DB, Log, Watch, Identity, Findings and Derive are required.
type Options struct {
	DB       *storage.DB
	Log      *audit.Log
	Watch    *storage.Watcher
	Identity *identity.Service
	Findings *findings.Service
	Derive   func(label string) []byte // 32 secret bytes for a label, the same on every replica
	// Base is the URL at which browsers reach this server, without a path.
	Base   func() string
	Config Config
	Now    func() time.Time // time.Now if nil
	Logger *slog.Logger     // discards if nil
}

// Service is the room's verbs.
type Service struct {
	o        Options
	provider *provider
	aead     cipher.AEAD
	key      []byte // of what is derived from a state

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// New returns a stopped Service.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Log == nil || o.Watch == nil || o.Identity == nil || o.Findings == nil || o.Derive == nil || o.Base == nil {
		return nil, errors.New("signin: an option is missing")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Config.Secret == nil {
		o.Config.Secret = func() (string, error) { return "", nil }
	}
	block, err := aes.NewCipher(o.Derive("signin/seal/v1"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	with, err := carrier(o.Config.CA)
	if err != nil {
		return nil, err
	}
	return &Service{o: o, aead: aead, key: o.Derive("signin/derive/v1"), provider: &provider{c: o.Config, with: with, now: o.Now}}, nil
}

// On reports whether there is a provider.
func (s *Service) On() bool { return s.o.Config.Issuer != "" }

// sealed is what a state, a ticket or a device handle carries.
type sealed struct {
	Redirect  string    `json:"r,omitempty"`
	Challenge string    `json:"c"`
	User      string    `json:"u,omitempty"`
	UserID    string    `json:"i,omitempty"`
	Device    string    `json:"d,omitempty"` // the provider's device code
	Interval  int64     `json:"s,omitempty"`
	Expires   time.Time `json:"e"`
	Once      string    `json:"n"`
}

func (s *Service) seal(what string, v sealed) (string, error) {
	v.Once = rand.Text()
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, []byte("countersign sign-in\x00"+what))), nil
}

func (s *Service) open(what, text string, refusal error) (v sealed, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(text) > 8<<10 {
		return v, refusal
	}
	plain, err := s.aead.Open(nil, nil, b, []byte("countersign sign-in\x00"+what))
	if err != nil || json.Unmarshal(plain, &v) != nil || !s.o.Now().Before(v.Expires) {
		return v, refusal
	}
	return v, nil
}

// once uses a sealed text up: of several uses, on whichever replica, one
// succeeds. It is no change that a person makes, so it is no event.
func (s *Service) once(ctx context.Context, text string, until time.Time, refusal error) error {
	sum := sha256.Sum256([]byte(text))
	won := false
	err := s.o.DB.Tx(ctx, func(tx *storage.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM used_logins WHERE until < $1`, storage.Micros(s.o.Now())); err != nil {
			return err
		}
		res, err := tx.Exec(ctx, `INSERT INTO used_logins (hash, until) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING`, hex.EncodeToString(sum[:]), storage.Micros(until))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		won = n == 1
		return err
	})
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	if !won {
		return refusal
	}
	return nil
}

// derived returns a secret that belongs to a state: the PKCE verifier, the nonce.
func (s *Service) derived(what, state string) string {
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte(what + "\x00" + state))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// Challenge returns the challenge of a verifier: RFC 7636, S256.
func Challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// callback is the redirect URI as the provider knows it.
func (s *Service) callback() string { return s.o.Base() + CallbackPath }

// StartLogin begins a sign-in and returns the URL at the provider to which the
// person's browser must go. redirect is where it comes back to in the end: a
// path of this server, or http://127.0.0.1:PORT/PATH (RFC 8252 section 7.3);
// challenge binds the end to who began. remote is the network address it comes
// from. Errors: ErrOff, ErrRedirect, ErrRequest, ErrProvider, identity.ErrLoginLimit.
func (s *Service) StartLogin(ctx context.Context, redirect, challenge, remote string) (at string, expires time.Time, err error) {
	switch {
	case !s.On():
		return "", time.Time{}, ErrOff
	case !s.o.Identity.AllowLogin(remote):
		return "", time.Time{}, identity.ErrLoginLimit
	case !allowed(redirect):
		return "", time.Time{}, ErrRedirect
	case len(challenge) != 43:
		return "", time.Time{}, ErrRequest.Say("code_challenge: the base64url SHA-256 of a verifier is needed (RFC 7636, S256)")
	}
	expires = s.o.Now().Add(stateLife)
	state, err := s.seal("state", sealed{Redirect: redirect, Challenge: challenge, Expires: expires})
	if err != nil {
		return "", time.Time{}, err
	}
	at, err = s.provider.authURL(ctx, state, s.derived("nonce", state), s.derived("pkce", state), s.callback())
	return at, expires, err
}

// allowed reports whether a sign-in may end at redirect.
func allowed(redirect string) bool {
	if redirect == "" || len(redirect) > 500 || strings.ContainsFunc(redirect, func(r rune) bool { return r <= 0x20 || r >= 0x7f || r == '\\' }) {
		return false
	}
	u, err := url.Parse(redirect)
	if err != nil || u.User != nil || u.Fragment != "" || u.RawQuery != "" || u.ForceQuery || u.Opaque != "" {
		return false
	}
	if u.Scheme == "" && u.Host == "" {
		return strings.HasPrefix(redirect, "/") && !strings.HasPrefix(redirect, "//")
	}
	a, err := netip.ParseAddr(u.Hostname())
	port, perr := strconv.Atoi(u.Port())
	return u.Scheme == "http" && err == nil && a.IsLoopback() && !a.Is4In6() && perr == nil && port > 0 && port < 1<<16
}

// Answer is what the provider sends a browser back with.
type Answer struct {
	State, Code, Issuer string
	Error               string // RFC 6749 section 4.1.2.1
	Remote              string
}

// Callback takes the provider's answer and returns where the browser goes next,
// with a ticket or an error in its query. An error is returned only if it is
// not known where that is: it is for the person to read.
func (s *Service) Callback(ctx context.Context, a Answer) (next string, err error) {
	if !s.On() {
		return "", ErrOff
	}
	v, err := s.open("state", a.State, ErrState)
	if err != nil {
		return "", err
	}
	if err := s.once(ctx, a.State, v.Expires, ErrState); err != nil {
		return "", err
	}
	ticket, err := s.answer(ctx, a, v)
	q := url.Values{"ticket": {ticket}}
	if err != nil {
		f := fault.Public(err)
		q = url.Values{"error": {f.Code}, "error_description": {f.Message}}
	}
	if strings.HasPrefix(v.Redirect, "/") {
		return s.o.Base() + v.Redirect + "?" + q.Encode(), nil
	}
	return v.Redirect + "?" + q.Encode(), nil
}

func (s *Service) answer(ctx context.Context, a Answer, v sealed) (ticket string, err error) {
	var u identity.User
	defer func() {
		if err != nil {
			s.refused(ctx, u, err, a.Remote)
		}
	}()
	switch {
	case a.Error != "":
		return "", ErrDeclined
	case a.Code == "" || len(a.Code) > 4096:
		return "", ErrVouch.Say("the identity provider sent no code")
	}
	if _, err := s.provider.discover(ctx); err != nil {
		return "", err
	}
	if a.Issuer != s.o.Config.Issuer && (a.Issuer != "" || s.provider.promises()) {
		return "", ErrVouch.Say("the answer is that of another identity provider") // RFC 9207: mix-up
	}
	who, err := s.provider.redeem(ctx, a.Code, s.derived("pkce", a.State), s.derived("nonce", a.State), s.callback())
	if err != nil {
		return "", err
	}
	if u, err = s.admit(ctx, who); err != nil {
		return "", err
	}
	return s.seal("ticket", sealed{Challenge: v.Challenge, User: u.Name, UserID: u.ID, Expires: s.o.Now().Add(ticketLife)})
}

// refused records why nobody was signed in.
func (s *Service) refused(ctx context.Context, u identity.User, err error, remote string) {
	f := fault.Public(err)
	s.o.Identity.RefusedLogin(u, f.Code, remote)
	s.o.Logger.InfoContext(ctx, "a sign-in at the identity provider was refused", "code", f.Code, "error", err)
}

// admit brings the person up to date here, and keeps the refresh token, sealed.
func (s *Service) admit(ctx context.Context, who person) (u identity.User, err error) {
	v, err := s.o.Config.vouch(who)
	if err != nil {
		return u, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if u, err = s.o.Identity.AdmitTx(ctx, tx, v, s.o.Config.Join); err != nil {
			return err
		}
		return s.keep(ctx, tx, u, who.refresh)
	})
	return u, err
}

// change commits what fn does with its events; the views follow.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	switch err := s.o.Log.Change(ctx, fn); {
	case err == nil:
	case storage.Duplicate(err):
		return identity.ErrConflict.With(err)
	default:
		return err
	}
	if err := s.o.Watch.Poll(ctx); err != nil {
		s.o.Logger.Warn("people changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

// FinishLogin gives a session for the ticket of a sign-in to whoever holds the
// verifier that it was begun with.
func (s *Service) FinishLogin(ctx context.Context, ticket, verifier, remote string) (t identity.Token, value string, err error) {
	if !s.On() {
		return t, "", ErrOff
	}
	v, err := s.open("ticket", ticket, ErrTicket)
	if err != nil {
		return t, "", err
	}
	if len(verifier) < 43 || len(verifier) > 128 || !same(Challenge(verifier), v.Challenge) {
		return t, "", ErrTicket
	}
	if err := s.once(ctx, ticket, v.Expires, ErrTicket); err != nil {
		return t, "", err
	}
	return s.o.Identity.SessionFor(ctx, v.User, v.UserID, s.o.Config.Issuer, remote)
}
