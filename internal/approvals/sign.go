package approvals

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json/v2"
	"maps"
	"slices"

	"github.com/countersign/countersign/internal/approvals/statement"
	"github.com/countersign/countersign/internal/audit"
)

// Passkeys knows the passkeys that people registered with this server, and what
// their browsers were asked to sign. Who registers them answers for the ceremony.
type Passkeys interface {
	// Party returns the domain that passkeys are for, and the origin of the pages
	// that ask for them; empty if there can be none.
	Party() (domain, origin string)
	// Keys returns the public keys (COSE) of a user's passkeys, by identifier
	// (base64url).
	Keys(ctx context.Context, user string) (map[string][]byte, error)
	// Ask notes what a session is asked to sign, and the nonce that it was made of.
	Ask(ctx context.Context, user, session string, challenge, nonce []byte) error
	// Answered uses that up, in the change that records a decision, and returns
	// the nonce. An error refuses the decision: nothing was asked, or too long ago.
	Answered(ctx context.Context, tx *audit.Tx, user, session string, challenge []byte) (nonce []byte, err error)
	// Used notes, in that change, that a passkey signed, with its authenticator's
	// count of signatures. An error refuses the decision: a count that does not
	// grow is a copied passkey's.
	Used(ctx context.Context, tx *audit.Tx, user, credential string, count uint32) error
}

// needsPasskey reports whether approving r takes a passkey. One policy that
// says so is enough: it counts for the whole call.
func (r *Request) needsPasskey() bool {
	return slices.ContainsFunc(r.Needs, func(n Need) bool { return n.Passkey })
}

func (s *Service) passkeys(ctx context.Context, user string) (map[string][]byte, error) {
	if s.o.Passkeys == nil {
		return nil, nil
	}
	return s.o.Passkeys.Keys(ctx, user)
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
	Domain      string   // that passkeys are registered for
	Origin      string   // of the pages that may ask for it
	Credentials []string // the person's passkeys, base64url
}

// Challenge asks by to sign that they decide v about a request. It is good for
// one answer, in the same session, for a short time.
func (s *Service) Challenge(ctx context.Context, by By, id string, v Verdict) (Challenge, error) {
	if v != Approve && v != Deny {
		return Challenge{}, ErrVerdict
	}
	r, err := s.Get(ctx, id)
	if err != nil {
		return Challenge{}, err
	}
	if r.State != Pending {
		return Challenge{}, notPending(&r)
	}
	keys, err := s.passkeys(ctx, by.ID)
	switch {
	case err != nil:
		return Challenge{}, err
	case len(keys) == 0:
		return Challenge{}, ErrNoPasskey
	}
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails
	out := Challenge{Challenge: s.statement(&r, Decision{Person: by.Person, Verdict: v}).Challenge(nonce), Credentials: slices.Sorted(maps.Keys(keys))}
	out.Domain, out.Origin = s.o.Passkeys.Party()
	return out, s.o.Passkeys.Ask(ctx, by.ID, by.Credential, out.Challenge, nonce)
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
		keys, err := s.passkeys(ctx, by.ID)
		if err == nil && len(keys) == 0 {
			err = ErrNoPasskey
		}
		return d, cmp.Or(err, error(ErrPasskey))
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
	challenge, err := statement.Challenged(by.Assertion)
	if err != nil {
		return nil, ErrBadPasskey.With(err)
	}
	keys, err := s.passkeys(ctx, by.ID)
	if err != nil {
		return nil, err
	}
	key, ok := keys[named.ID]
	if !ok {
		return nil, ErrBadPasskey
	}
	p := &statement.Passkey{Credential: named.ID, Key: key, Response: by.Assertion}
	p.RP, p.Origin = s.o.Passkeys.Party()
	if p.Nonce, err = s.o.Passkeys.Answered(ctx, tx, by.ID, by.Credential, challenge); err != nil {
		return nil, err
	}
	count, err := p.Count(st)
	if err != nil {
		return nil, ErrBadPasskey.With(err)
	}
	return p, s.o.Passkeys.Used(ctx, tx, by.ID, p.Credential, count)
}

// byPasskey reports whether the person's own signature is in what was signed.
func (d Decision) byPasskey() bool {
	var s statement.Statement
	return json.Unmarshal([]byte(d.Statement), &s) == nil && s.Passkey != nil
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
