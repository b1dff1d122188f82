package passkeys

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// Limits.
const (
	mostPasskeys  = 20 // of one person
	challengeLife = 2 * time.Minute
	// freshSignIn is how old the session may be in which a passkey is registered:
	// whoever finds a browser open, or takes its session, does not get to sign
	// decisions for good.
	freshSignIn = 15 * time.Minute
)

// Options are what the room needs; DB, Log, Identity and URL are required.
type Options struct {
	DB       *storage.DB
	Log      *audit.Log
	Identity *identity.Service
	URL      func() string // where browsers reach this server
	Now      func() time.Time
	Logger   *slog.Logger
}

// Service is the room's verbs. It is safe for concurrent use.
type Service struct{ o Options }

// New returns a Service.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Log == nil || o.Identity == nil || o.URL == nil {
		return nil, errors.New("passkeys: DB, Log, Identity and URL are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{o}, nil
}

func (s *Service) now() time.Time { return s.o.Now().UTC().Truncate(time.Microsecond) }

// Party returns this server as browsers know it: the domain that passkeys are
// for, and the origin of its pages. Both are empty if it is reached by an address
// that is no name, for which browsers have no passkeys; the machine's own
// address is the name localhost.
func (s *Service) Party() (domain, origin string) {
	u, err := url.Parse(s.o.URL())
	if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", ""
	}
	host := strings.ToLower(u.Hostname())
	if a, err := netip.ParseAddr(host); err == nil {
		if !a.IsLoopback() {
			return "", ""
		}
		host = "localhost"
	}
	origin = u.Scheme + "://" + host
	if port := u.Port(); port != "" && (u.Scheme != "http" || port != "80") && (u.Scheme != "https" || port != "443") {
		origin += ":" + port
	}
	return host, origin
}

// Passkey is a registered passkey.
type Passkey struct {
	ID         string // psk_…
	Credential string // as the authenticator names it, base64url
	UserID     string
	User       string
	Name       string
	Key        []byte // public, as a COSE key
	Count      uint32 // of signatures, as the authenticator last said
	Created    time.Time
	LastUsed   time.Time
}

// Of returns the passkeys of a user, by name, oldest first.
func (s *Service) Of(ctx context.Context, user string) ([]Passkey, error) {
	return readPasskeys(ctx, s.o.DB, ` WHERE user_name = $1 ORDER BY created, id`, user)
}

// Keys returns the public keys of a user's passkeys, by credential.
func (s *Service) Keys(ctx context.Context, userID string) (map[string][]byte, error) {
	found, err := readPasskeys(ctx, s.o.DB, ` WHERE user_id = $1`, userID)
	out := make(map[string][]byte, len(found))
	for _, p := range found {
		out[p.Credential] = p.Key
	}
	return out, err
}

// The purposes of challenges.
const (
	toRegister = "register"
	toDecide   = "decide"
)

// Ask notes what a session's browser is asked to sign, and the nonce that it was
// made of. What the session was asked before is forgotten.
func (s *Service) Ask(ctx context.Context, userID, session string, challenge, nonce []byte) error {
	return s.ask(ctx, toDecide, userID, session, challenge, nonce)
}

// Answered uses up what a session was asked, inside the change that the answer
// is for, and returns its nonce: of several answers, on whichever replica, one
// counts. Refusal: ErrChallenge.
func (s *Service) Answered(ctx context.Context, tx *audit.Tx, userID, session string, challenge []byte) (nonce []byte, err error) {
	return s.answered(ctx, tx, toDecide, userID, session, challenge)
}

// ask is no change that a person makes, so it is no event.
func (s *Service) ask(ctx context.Context, purpose, userID, session string, challenge, nonce []byte) error {
	if session == "" || userID == "" || len(challenge) < 16 {
		return ErrChallenge
	}
	now := s.now()
	return s.o.DB.Tx(ctx, func(tx *storage.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM passkey_challenges WHERE expires <= $1`, storage.Micros(now)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO passkey_challenges (session_id, purpose, user_id, challenge, nonce, expires) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (session_id, purpose) DO UPDATE SET user_id = EXCLUDED.user_id, challenge = EXCLUDED.challenge, nonce = EXCLUDED.nonce, expires = EXCLUDED.expires`,
			session, purpose, userID, text(challenge), text(nonce), storage.Micros(now.Add(challengeLife)))
		return err
	})
}

func (s *Service) answered(ctx context.Context, tx *audit.Tx, purpose, userID, session string, challenge []byte) ([]byte, error) {
	nonces, err := readTexts(ctx, tx, `SELECT nonce FROM passkey_challenges WHERE session_id = $1 AND purpose = $2 AND user_id = $3 AND challenge = $4 AND expires > $5`,
		session, purpose, userID, text(challenge), storage.Micros(s.now()))
	if err != nil {
		return nil, err
	}
	if len(nonces) == 0 {
		return nil, ErrChallenge
	}
	if won, err := changed(tx.Exec(ctx, `DELETE FROM passkey_challenges WHERE session_id = $1 AND purpose = $2 AND challenge = $3`, session, purpose, text(challenge))); err != nil || !won {
		return nil, errors.Join(err, ErrChallenge)
	}
	nonce, err := base64.RawURLEncoding.DecodeString(nonces[0])
	if err != nil {
		return nil, ErrChallenge.With(err)
	}
	return nonce, nil
}

// Used notes, inside the change that a signature is for, that a passkey signed,
// with its authenticator's count of signatures. Authenticators that do not count
// say 0 always. Refusals: ErrCopied, and ErrNotFound if it was removed meanwhile.
func (s *Service) Used(ctx context.Context, tx *audit.Tx, userID, credential string, count uint32) error {
	won, err := changed(tx.Exec(ctx, `UPDATE passkeys SET sign_count = $1, last_used = $2 WHERE credential = $3 AND user_id = $4 AND (sign_count < $1 OR (sign_count = 0 AND $5 = 0))`,
		int64(count), storage.Micros(s.now()), credential, userID, int64(count)))
	if err != nil || won {
		return err
	}
	found, err := readPasskeys(ctx, tx, ` WHERE credential = $1 AND user_id = $2`, credential, userID)
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return ErrNotFound
	}
	s.o.Log.Later(event("user.passkey_suspected", audit.Person(found[0].UserID, found[0].User), "", found[0], map[string]any{"count": count, "before": found[0].Count}))
	return ErrCopied
}

// Rename gives a passkey of the person's own another name.
func (s *Service) Rename(ctx context.Context, by audit.Actor, id, name string) (Passkey, error) {
	name, err := checkName(name)
	if err != nil {
		return Passkey{}, err
	}
	var p Passkey
	err = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		if p, err = s.own(ctx, tx, by, id, false); err != nil || p.Name == name {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE passkeys SET name = $1 WHERE id = $2`, name, id); err != nil {
			return err
		}
		tx.Record(event("user.passkey_renamed", by, "", p, map[string]any{"to": name}))
		p.Name = name
		return nil
	})
	return p, err
}

// Remove ends a passkey at once; people remove their own, administrators
// anyone's.
func (s *Service) Remove(ctx context.Context, by audit.Actor, reason, id string) error {
	if !utf8.ValidString(reason) || utf8.RuneCountInString(reason) > 1000 {
		return ErrReason
	}
	return s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		p, err := s.own(ctx, tx, by, id, true)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM passkeys WHERE id = $1`, id); err != nil {
			return err
		}
		tx.Record(event("user.passkey_removed", by, reason, p, nil))
		return nil
	})
}

// own returns a passkey that by may change: their own, or, if others is true
// and they govern, anyone's. To everybody else it does not exist.
func (s *Service) own(ctx context.Context, tx *audit.Tx, by audit.Actor, id string, others bool) (Passkey, error) {
	found, err := readPasskeys(ctx, tx, ` WHERE id = $1`, id)
	switch {
	case err != nil:
		return Passkey{}, err
	case len(found) == 0, found[0].UserID != by.ID && (!others || !s.governs(by)):
		return Passkey{}, ErrNotFound
	}
	return found[0], nil
}

func (s *Service) governs(by audit.Actor) bool {
	u, ok := s.o.Identity.User(by.Name)
	return ok && by.Kind == audit.KindUser && u.ID == by.ID && u.May(rest.Govern)
}

func checkName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" || !utf8.ValidString(name) || utf8.RuneCountInString(name) > 60 || strings.ContainsFunc(name, unicode.IsControl) {
		return "", ErrName
	}
	return name, nil
}

func event(kind audit.Type, by audit.Actor, reason string, p Passkey, more map[string]any) audit.Event {
	return audit.Event{Type: kind, Actor: by, Reason: reason, Object: "user/" + p.User, Detail: detail(p, more)}
}

func text(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// fresh returns bytes that nobody can guess.
func fresh() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return b
}

// signedIn returns since when a session of the person's lasts; false if the
// credential is no such session.
func (s *Service) signedIn(ctx context.Context, user, credential string) (time.Time, bool, error) {
	tokens, err := s.o.Identity.Tokens(ctx, user)
	i := slices.IndexFunc(tokens, func(t identity.Token) bool {
		return t.ID == credential && t.Kind == identity.Session && t.Status(s.now()) == identity.Active
	})
	if err != nil || i < 0 {
		return time.Time{}, false, err
	}
	return tokens[i].Created, true, nil
}
