package tokens

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"math"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// asymmetric are the signatures that prove anything: with none, or with a key
// that two parties share, everybody could be anybody (RFC 8725 section 3.1).
var asymmetric = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// ownTypes are the types of our own tokens. None of them is a proof: it would
// let a token for one door be turned into one for others.
var ownTypes = []string{accessType, "application/" + accessType, "cs-run+jwt"}

// jwt is a token from outside, read but not believed.
type jwt struct {
	jws      *jose.JSONWebSignature
	kid, alg string

	issuer, subject, id        string
	audience                   []string
	expires, notBefore, issued time.Time
	claims                     map[string]jsontext.Value
}

// parseJWT reads a compact JWS of bounded size with one signature by an
// asymmetric algorithm, and its claims strictly. Nothing of it is verified.
func parseJWT(token string) (*jwt, error) {
	if len(token) > maxProof {
		return nil, ErrProof.Say("the token is over %d bytes", maxProof)
	}
	jws, err := jose.ParseSignedCompact(token, asymmetric)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, ErrProof.Say("this is no JWT signed with an asymmetric key").With(err)
	}
	h := jws.Signatures[0].Protected
	j := &jwt{jws: jws, kid: h.KeyID, alg: h.Algorithm}
	if typ, _ := h.ExtraHeaders[jose.HeaderType].(string); slices.Contains(ownTypes, typ) {
		return nil, ErrProof.Say("a token of Countersign itself proves nothing here; exchange it (RFC 8693)")
	}
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &j.claims); err != nil {
		return nil, ErrProof.Say("the token's claims are no JSON object without duplicate names").With(err)
	}
	return j, j.read()
}

func (j *jwt) read() error {
	var err error
	text := func(name string, to *string) {
		if v, ok := j.claims[name]; ok && json.Unmarshal(v, to) != nil {
			err = ErrProof.Say("the claim %s is no text", name)
		}
	}
	date := func(name string, to *time.Time) {
		var f float64
		v, ok := j.claims[name]
		if !ok {
			return
		}
		if json.Unmarshal(v, &f) != nil || math.IsNaN(f) || f < 0 || f > 1<<40 {
			err = ErrProof.Say("the claim %s is no time", name)
			return
		}
		*to = time.UnixMilli(int64(f * 1000)).UTC()
	}
	text("iss", &j.issuer)
	text("sub", &j.subject)
	text("jti", &j.id)
	date("exp", &j.expires)
	date("nbf", &j.notBefore)
	date("iat", &j.issued)
	if v, ok := j.claims["aud"]; ok {
		var one string
		if json.Unmarshal(v, &one) == nil {
			j.audience = []string{one}
		} else if json.Unmarshal(v, &j.audience) != nil {
			err = ErrProof.Say("the claim aud is neither text nor a list of texts")
		}
	}
	return err
}

// verify checks the signature with a key, which must be of the kind that the
// algorithm needs: go-jose refuses others.
func (j *jwt) verify(k jose.JSONWebKey) error {
	if k.Algorithm != "" && k.Algorithm != j.alg {
		return ErrProof.Say("the key is for %s, the token says %s", k.Algorithm, cut(j.alg, 10))
	}
	if !k.IsPublic() || !k.Valid() {
		return ErrProof.Say("the key is no public key")
	}
	_, err := j.jws.Verify(k.Key)
	return err
}

// maxValidity is the longest that a token from outside may be valid for.
const maxValidity = 25 * time.Hour

// inTime checks a token's times, with clocks a minute apart at most.
func (j *jwt) inTime(now time.Time) error {
	switch {
	case j.expires.IsZero():
		return ErrProof.Say("the token does not say when it expires")
	case !now.Before(j.expires.Add(skew)):
		return ErrProof.Say("the token expired at %s", j.expires.Format(time.RFC3339))
	case j.notBefore.After(now.Add(skew)):
		return ErrProof.Say("the token is not valid before %s", j.notBefore.Format(time.RFC3339))
	case j.issued.After(now.Add(skew)):
		return ErrProof.Say("the token was issued in the future, at %s", j.issued.Format(time.RFC3339))
	case !j.issued.IsZero() && j.expires.Sub(j.issued) > maxValidity:
		return ErrProof.Say("the token is valid for more than %s", maxValidity)
	}
	return nil
}

// claim returns a claim as the text that rules compare: what a text says, and
// numbers and truth values as JSON writes them.
func (j *jwt) claim(name string) (string, bool) {
	v, ok := j.claims[name]
	if !ok {
		return "", false
	}
	switch v.Kind() {
	case '"':
		var s string
		err := json.Unmarshal(v, &s)
		return s, err == nil
	case '0', 't', 'f':
		return string(v), true
	}
	return "", false
}

// checkURL refuses what is no plain https URL.
func checkURL(what, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || len(raw) > 2000 {
		return ErrInvalid.Say("%s: %.200q is no https URL", what, raw)
	}
	return nil
}
