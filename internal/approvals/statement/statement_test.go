package statement_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/approvals/statement"
	"github.com/countersign/countersign/test/passkey"
)

var honest = passkey.Signing{RP: "countersign.example", Origin: "https://countersign.example", Flags: 0x05}

// signedBy is a statement with the signature of a passkey.
func signedBy(a *passkey.Authenticator) statement.Statement {
	s := statement.Statement{Approval: "apr_1", Digest: "d", Person: statement.Person{ID: "usr_1", Name: "fiona"}, Verdict: "approve"}
	nonce := []byte("once")
	s.Passkey = &statement.Passkey{Credential: passkey.B64(a.ID), Key: a.COSE(), RP: honest.RP, Origin: honest.Origin, Nonce: nonce, Response: a.Sign(s.Challenge(nonce), honest)}
	return s
}

// The server's signature does not make up for a person's: who holds the
// server's key cannot say that somebody else decided something else.
func TestAPasskeysSignatureIsVerifiedOffline(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := passkey.New()
	verify := func(s statement.Statement) error {
		text, signature, err := s.Sign(private)
		if err != nil {
			t.Fatal(err)
		}
		_, err = statement.Verify(text, signature, public)
		return err
	}
	if err := verify(signedBy(a)); err != nil {
		t.Fatal(err)
	}
	for name, forge := range map[string]func(*statement.Statement){
		"another request": func(s *statement.Statement) { s.Approval = "apr_2" }, "another digest": func(s *statement.Statement) { s.Digest = "e" },
		"another person": func(s *statement.Statement) { s.Person.ID = "usr_2" }, "another verdict": func(s *statement.Statement) { s.Verdict = "deny" },
		"another nonce": func(s *statement.Statement) { s.Passkey.Nonce = []byte("twice") }, "another key": func(s *statement.Statement) { s.Passkey.Key = passkey.New().COSE() },
		"no key": func(s *statement.Statement) { s.Passkey.Key = nil }, "another passkey": func(s *statement.Statement) { s.Passkey.Credential = "AAAA" },
		"another domain": func(s *statement.Statement) { s.Passkey.RP = "evil.example" }, "another page": func(s *statement.Statement) { s.Passkey.Origin = "https://evil.example" },
		"nothing it is for": func(s *statement.Statement) { s.Passkey.RP = "" },
	} {
		s := signedBy(a)
		forge(&s)
		if err := verify(s); !errors.Is(err, statement.ErrPasskey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whoever holds the passkey's device must be there, and be verified by it.
func TestSomebodyVerifiedSigned(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := passkey.New()
	for name, flags := range map[string]byte{"nobody verified": 0x01, "nobody there": 0x04} {
		how := honest
		how.Flags = flags
		s := signedBy(a)
		s.Passkey.Response = a.Sign(s.Challenge(s.Passkey.Nonce), how)
		text, signature, err := s.Sign(private)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := statement.Verify(text, signature, public); !errors.Is(err, statement.ErrPasskey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A signature is of this kind of statement, in this form, by a key that is one.
func TestWhatIsNoSignedStatement(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, signature, err := statement.Statement{Approval: "apr_1", Verdict: "deny"}.Sign(private)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(prefix, text string) string {
		return base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte(prefix+text)))
	}
	const kind = "countersign approval decision v1\n"
	if sign(kind, text) != signature {
		t.Error("what is signed is not what is documented")
	}
	other := strings.Replace(text, `"v":1`, `"v":2`, 1)
	for name, c := range map[string]struct {
		text, signature string
		key             ed25519.PublicKey
		want            error
	}{
		"another kind": {text, sign("", text), public, statement.ErrSignature}, "another form": {other, sign(kind, other), public, statement.ErrForm}, "no form": {"{", sign(kind, "{"), public, statement.ErrForm},
		"no key": {text, signature, nil, statement.ErrSignature}, "half a key": {text, signature, public[:16], statement.ErrSignature}, "no base64": {text, "*", public, statement.ErrSignature},
	} {
		if _, err := statement.Verify(c.text, c.signature, c.key); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzAnswer: whatever a browser sends, it is read or refused; what is read
// answers one challenge.
func FuzzAnswer(f *testing.F) {
	a := passkey.New()
	s := signedBy(a)
	f.Add([]byte(s.Passkey.Response))
	f.Add(a.Make([]byte("a challenge of sixteen bytes"), honest))
	f.Add([]byte(strings.Replace(string(s.Passkey.Response), `"response":`, `"response":{},"response":`, 1)))
	f.Add([]byte(`{"id":"AA","rawId":"AA","type":"public-key","response":{"clientDataJSON":"e30","authenticatorData":"","signature":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := statement.Challenged(b)
		if (err == nil) != (len(c) > 0) {
			t.Errorf("%v %x", err, c)
		}
		p := *s.Passkey
		p.Response = b
		if _, err := p.Count(s); err != nil && !errors.Is(err, statement.ErrPasskey) {
			t.Errorf("%v", err)
		}
	})
}
