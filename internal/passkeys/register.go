package passkeys

import (
	"context"
	"encoding/base64"
	"encoding/json/v2"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/protocol/webauthncose"

	"github.com/countersign/countersign/internal/approvals/statement"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// The signatures that a passkey may make.
var algorithms = []webauthncose.COSEAlgorithmIdentifier{webauthncose.AlgES256, webauthncose.AlgEdDSA, webauthncose.AlgRS256}

// maxRegistration is the largest answer of a browser that is read, in bytes.
const maxRegistration = 16 << 10

// Registration is what a browser needs to make a passkey
// (navigator.credentials.create, with user verification required).
type Registration struct {
	Challenge  []byte
	Domain     string
	Origin     string
	Exclude    []string // credentials of the person's passkeys
	Algorithms []int64
}

// Begin asks a person's session to make a passkey. Refusals: ErrOff,
// ErrSession, ErrStale, ErrMany.
func (s *Service) Begin(ctx context.Context, by audit.Actor, session string) (Registration, error) {
	r := Registration{Challenge: fresh(), Exclude: []string{}}
	if r.Domain, r.Origin = s.Party(); r.Domain == "" {
		return r, ErrOff
	}
	if err := s.mayRegister(ctx, by, session); err != nil {
		return r, err
	}
	found, err := s.Of(ctx, by.Name)
	switch {
	case err != nil:
		return r, err
	case len(found) >= mostPasskeys:
		return r, ErrMany
	}
	for _, p := range found {
		r.Exclude = append(r.Exclude, p.Credential)
	}
	for _, a := range algorithms {
		r.Algorithms = append(r.Algorithms, int64(a))
	}
	return r, s.ask(ctx, toRegister, by.ID, session, r.Challenge, nil)
}

func (s *Service) mayRegister(ctx context.Context, by audit.Actor, session string) error {
	if by.Kind != audit.KindUser {
		return ErrSession
	}
	since, ok, err := s.signedIn(ctx, by.Name, session)
	switch {
	case err != nil:
		return err
	case !ok:
		return ErrSession
	case s.now().Sub(since) > freshSignIn:
		return ErrStale
	}
	return nil
}

// Register keeps the passkey that a browser made (PublicKeyCredential.toJSON)
// for the session that Begin asked. Refusals: ErrName, ErrOff, ErrSession, ErrStale,
// ErrChallenge, ErrRefused, ErrTaken, ErrMany.
func (s *Service) Register(ctx context.Context, by audit.Actor, session, name string, made []byte) (Passkey, error) {
	name, err := checkName(name)
	if err != nil {
		return Passkey{}, err
	}
	if err := s.mayRegister(ctx, by, session); err != nil {
		return Passkey{}, err
	}
	challenge, p, err := s.made(made)
	if err != nil {
		return Passkey{}, err
	}
	p.UserID, p.User, p.Name, p.Created = by.ID, by.Name, name, s.now()
	p.ID = id.At(id.Passkey, p.Created)
	err = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		if _, err := s.answered(ctx, tx, toRegister, by.ID, session, challenge); err != nil {
			return err
		}
		found, err := readPasskeys(ctx, tx, ` WHERE user_id = $1`, by.ID)
		switch {
		case err != nil:
			return err
		case len(found) >= mostPasskeys:
			return ErrMany
		}
		if err := insert(ctx, tx, p); err != nil {
			return err
		}
		tx.Record(event("user.passkey_added", by, "", p, nil))
		return nil
	})
	if storage.Duplicate(err) {
		return Passkey{}, ErrTaken
	}
	return p, err
}

// made reads and verifies what a browser made (WebAuthn level 3, section 7.1),
// and returns the challenge that it answers. Who made the authenticator is not
// asked for, so an attestation proves nothing more than that it is coherent.
func (s *Service) made(b []byte) (challenge []byte, p Passkey, err error) {
	domain, origin := s.Party()
	if domain == "" {
		return nil, p, ErrOff
	}
	if len(b) > maxRegistration {
		return nil, p, ErrRefused
	}
	if challenge, err = statement.Challenged(b); err != nil {
		return nil, p, ErrRefused.With(err)
	}
	c, err := protocol.ParseCredentialCreationResponseBytes(b)
	if err != nil {
		return nil, p, ErrRefused.With(err)
	}
	allowed := make([]protocol.CredentialParameter, len(algorithms))
	for i, a := range algorithms {
		allowed[i] = protocol.CredentialParameter{Type: protocol.PublicKeyCredentialType, Algorithm: a}
	}
	_, err = c.Verify(text(challenge), domain, []string{origin}, nil, nil, protocol.TopOriginExplicitVerificationMode, false, true, true, nil, allowed, protocol.AttestationPolicy{}, protocol.SignaturePolicy{})
	if err != nil {
		return nil, p, ErrRefused.With(err)
	}
	data := c.Response.AttestationObject.AuthData
	if len(data.AttData.CredentialID) == 0 || text(data.AttData.CredentialID) != text(c.RawID) || len(data.AttData.CredentialPublicKey) == 0 {
		return nil, p, ErrRefused
	}
	return challenge, Passkey{Credential: text(data.AttData.CredentialID), Key: data.AttData.CredentialPublicKey, Count: data.Counter}, nil
}

// detail is what events say of a passkey.
func detail(p Passkey, more map[string]any) []byte {
	d := map[string]any{"passkey": p.ID, "credential": p.Credential, "name": p.Name, "public_key": base64.StdEncoding.EncodeToString(p.Key)}
	for k, v := range more {
		d[k] = v
	}
	b, err := json.Marshal(d, json.Deterministic(true))
	if err != nil {
		return nil // names are checked, and the rest is ours
	}
	return b
}
