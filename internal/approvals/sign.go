package approvals

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json/v2"
	"net/url"
	"slices"

	"github.com/countersign/countersign/internal/approvals/statement"
	"github.com/countersign/countersign/internal/audit"
)

// Passkey is a person's registered passkey.
type Passkey struct {
	Credential string // identifier, base64url
	Key        []byte // public, as a COSE key
}

// Passkeys knows the passkeys that people registered with this server. Who
// registers them answers for the ceremony.
type Passkeys interface {
	// Passkeys returns the passkeys of a user, by identifier; none if there are
	// none.
	Passkeys(ctx context.Context, user string) ([]Passkey, error)
	// PasskeyUsed notes, in the change that records a decision, that a passkey
	// signed, with its authenticator's count of signatures. An error refuses the
	// decision: a count that does not grow is a copied passkey's.
	PasskeyUsed(ctx context.Context, tx *audit.Tx, user, credential string, count uint32) error
}

// needsPasskey reports whether approving r takes a passkey. One policy that
// says so is enough: it counts for the whole call.
func (r *Request) needsPasskey() bool {
	return slices.ContainsFunc(r.Needs, func(n Need) bool { return n.Passkey })
}

func (s *Service) passkeys(ctx context.Context, user string) ([]Passkey, error) {
	if s.o.Passkeys == nil {
		return nil, nil
	}
	return s.o.Passkeys.Passkeys(ctx, user)
}

// armed keeps those of the people who can approve r as strongly as it demands.
func (s *Service) armed(ctx context.Context, r *Request, people []Person) ([]Person, error) {
	if !r.needsPasskey() {
		return people, nil
	}
	var out []Person
	for _, p := range people {
		keys, err := s.passkeys(ctx, p.ID)
		if err != nil {
			return nil, err
		}
		if len(keys) > 0 {
			out = append(out, p)
		}
	}
	return out, nil
}

// Challenge is what a person's browser needs to have a decision signed with a
// passkey (navigator.credentials.get, with user verification required).
type Challenge struct {
	Challenge   []byte
	RP          string   // the domain, as passkeys are registered for it
	Credentials []string // the person's passkeys, base64url
}

// Challenge returns what by has to sign to decide v about a request.
func (s *Service) Challenge(ctx context.Context, by By, id string, v Verdict) (Challenge, error) {
	if v != Approve && v != Deny {
		return Challenge{}, ErrVerdict
	}
	r, err := s.Get(ctx, id)
	if err != nil {
		return Challenge{}, err
	}
	keys, err := s.passkeys(ctx, by.ID)
	if err != nil {
		return Challenge{}, err
	}
	rp, _ := s.relyingParty()
	out := Challenge{Challenge: s.statement(&r, Decision{Person: by.Person, Verdict: v}).Challenge(), RP: rp, Credentials: []string{}}
	for _, k := range keys {
		out.Credentials = append(out.Credentials, k.Credential)
	}
	return out, nil
}

// relyingParty is this server as browsers know it.
func (s *Service) relyingParty() (domain, origin string) {
	u, err := url.Parse(s.o.URL)
	if err != nil || u.Hostname() == "" {
		return "", ""
	}
	return u.Hostname(), u.Scheme + "://" + u.Host
}

func (s *Service) statement(r *Request, d Decision) statement.Statement {
	st := statement.Statement{Approval: r.ID, Digest: r.Digest, Person: statement.Person(d.Person), Verdict: string(d.Verdict), Reason: d.Reason, At: d.At}
	if d.For.ID != "" {
		as := statement.Person(d.For)
		st.For = &as
	}
	return st
}

// signed adds the statement about d with its signatures: the person's, if they
// gave one or it is demanded, and the server's over everything. To say no takes
// no passkey.
func (s *Service) signed(ctx context.Context, tx *audit.Tx, r *Request, by By, d Decision) (Decision, error) {
	st := s.statement(r, d)
	switch {
	case by.Assertion != nil:
		p, err := s.asserted(ctx, tx, by, st)
		if err != nil {
			return d, err
		}
		st.Passkey = p
	case d.Verdict == Approve && r.needsPasskey():
		return d, ErrPasskey
	}
	var err error
	if d.Statement, d.Signature, err = st.Sign(s.sign); err != nil {
		return d, ErrBadPasskey.With(err) // nothing else in a statement is foreign
	}
	return d, nil
}

// asserted verifies the person's own signature over what st says.
func (s *Service) asserted(ctx context.Context, tx *audit.Tx, by By, st statement.Statement) (*statement.Passkey, error) {
	if len(by.Assertion) > statement.MaxResponse {
		return nil, ErrBadPasskey
	}
	var named struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(by.Assertion, &named); err != nil {
		return nil, ErrBadPasskey.With(err)
	}
	keys, err := s.passkeys(ctx, by.ID)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(keys, func(k Passkey) bool { return k.Credential == named.ID })
	if at < 0 {
		return nil, ErrBadPasskey
	}
	p := &statement.Passkey{Credential: keys[at].Credential, Key: keys[at].Key, Response: by.Assertion}
	p.RP, p.Origin = s.relyingParty()
	count, err := p.Count(st)
	if err != nil {
		return nil, ErrBadPasskey.With(err)
	}
	return p, s.o.Passkeys.PasskeyUsed(ctx, tx, by.ID, p.Credential, count)
}

// Check says what is wrong with an event of this room, "" if nothing is: every
// decision that the log holds must be signed for what the event says.
func (s *Service) Check(ev audit.Event) string {
	return statement.CheckEvent(string(ev.Type), ev.Object, ev.Actor.ID, ev.Detail, s.sign.Public().(ed25519.PublicKey)) //nolint:forcetypeassert // it is what Public returns
}

// Key returns the public key of decisions' signatures, base64 (Ed25519, RFC 8032).
func (s *Service) Key() string {
	return base64.StdEncoding.EncodeToString(s.sign.Public().(ed25519.PublicKey)) //nolint:forcetypeassert // it is what Public returns
}
