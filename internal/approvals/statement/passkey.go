package statement

import (
	"encoding/base64"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"

	"github.com/go-webauthn/webauthn/protocol"
)

// Passkey is a person's assertion about a decision, with what it takes to
// verify it (WebAuthn level 3, section 7.2).
type Passkey struct {
	Credential string `json:"id"`         // identifier, base64url
	Key        []byte `json:"public_key"` // as a COSE key
	RP         string `json:"rp_id"`      // the domain that the passkey is for
	Origin     string `json:"origin"`     // of the page that asked for it
	Nonce      []byte `json:"nonce"`      // that the server made for this one answer
	// Response is the assertion as the browser returned it
	// (PublicKeyCredential.toJSON).
	Response jsontext.Value `json:"response"`
}

// MaxResponse is the largest assertion that is read, in bytes.
const MaxResponse = 8 << 10

// ErrPasskey says that a passkey did not sign what it is said to have signed.
var ErrPasskey = errors.New("the passkey did not sign this decision")

// Challenged returns the challenge that a browser's answer says it is to, before
// anything of it is verified. It reads strictly: what two readers could take for
// two things is refused.
func Challenged(response []byte) ([]byte, error) {
	var r struct {
		Response struct {
			Client string `json:"clientDataJSON"`
		} `json:"response"`
	}
	if err := json.Unmarshal(response, &r); err != nil {
		return nil, fmt.Errorf("%w: it cannot be read", ErrPasskey)
	}
	client, err := base64.RawURLEncoding.Strict().DecodeString(r.Response.Client)
	if err != nil {
		return nil, fmt.Errorf("%w: it cannot be read", ErrPasskey)
	}
	var c struct {
		Challenge string `json:"challenge"`
	}
	if err := json.Unmarshal(client, &c); err != nil {
		return nil, fmt.Errorf("%w: it cannot be read", ErrPasskey)
	}
	challenge, err := base64.RawURLEncoding.Strict().DecodeString(c.Challenge)
	if err != nil || len(challenge) == 0 {
		return nil, fmt.Errorf("%w: it answers no challenge", ErrPasskey)
	}
	return challenge, nil
}

// Count returns the authenticator's count of signatures, after verifying that
// the passkey signed s, with its person verified.
func (p *Passkey) Count(s Statement) (uint32, error) {
	a, err := p.open(s.Challenge(p.Nonce))
	if err != nil {
		return 0, err
	}
	return a.Response.AuthenticatorData.Counter, nil
}

func (p *Passkey) verify(s Statement) error {
	_, err := p.open(s.Challenge(p.Nonce))
	return err
}

// open verifies the assertion: by this passkey, for this domain and origin, with
// the person present and verified, over this challenge.
func (p *Passkey) open(challenge []byte) (*protocol.ParsedCredentialAssertionData, error) {
	if len(p.Response) > MaxResponse {
		return nil, fmt.Errorf("%w: it is too long", ErrPasskey)
	}
	if p.RP == "" || p.Origin == "" || len(challenge) == 0 {
		return nil, fmt.Errorf("%w: what it is for is missing", ErrPasskey)
	}
	a, err := protocol.ParseCredentialRequestResponseBytes(p.Response)
	if err != nil {
		return nil, fmt.Errorf("%w: it cannot be read", ErrPasskey)
	}
	if base64.RawURLEncoding.EncodeToString(a.RawID) != p.Credential {
		return nil, fmt.Errorf("%w: it is by another passkey", ErrPasskey)
	}
	err = a.Verify(base64.RawURLEncoding.EncodeToString(challenge), p.RP, "", []string{p.Origin}, nil, nil,
		protocol.TopOriginExplicitVerificationMode, false, true, true, p.Key, protocol.SignaturePolicy{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPasskey, err)
	}
	return a, nil
}
