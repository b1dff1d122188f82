package approvals_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

var b64 = base64.RawURLEncoding.EncodeToString

// authenticator is a passkey in software: a P-256 key that signs as WebAuthn
// says (level 3, section 7.2).
type authenticator struct {
	t     *testing.T
	key   *ecdsa.PrivateKey
	id    []byte
	count uint32
}

func newAuthenticator(t *testing.T) *authenticator {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authenticator{t: t, key: key, id: make([]byte, 16)}
	rand.Read(a.id)
	return a
}

// cose returns the public key as COSE has it: kty EC2, alg ES256, crv P-256.
func (a *authenticator) cose() []byte {
	point, err := a.key.PublicKey.Bytes()
	if err != nil {
		a.t.Fatal(err)
	}
	out := []byte{0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20}
	out = append(out, point[1:33]...)
	return append(append(out, 0x22, 0x58, 0x20), point[33:]...)
}

type signing struct {
	rp, origin, kind string
	flags            byte
}

// assert signs a challenge; how changes what an attacker would.
func (a *authenticator) assert(challenge []byte, how ...func(*signing)) jsontext.Value {
	a.t.Helper()
	s := signing{rp: "countersign.example", origin: "http://countersign.example", kind: "webauthn.get", flags: 0x05}
	for _, fn := range how {
		fn(&s)
	}
	a.count++
	client := fmt.Sprintf(`{"type":%q,"challenge":%q,"origin":%q,"crossOrigin":false}`, s.kind, b64(challenge), s.origin)
	rp := sha256.Sum256([]byte(s.rp))
	data := binary.BigEndian.AppendUint32(append(rp[:], s.flags), a.count)
	hash := sha256.Sum256([]byte(client))
	sum := sha256.Sum256(append(slices.Clone(data), hash[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, a.key, sum[:])
	if err != nil {
		a.t.Fatal(err)
	}
	return jsontext.Value(fmt.Sprintf(`{"id":%q,"rawId":%q,"type":"public-key","clientExtensionResults":{},"response":{"clientDataJSON":%q,"authenticatorData":%q,"signature":%q}}`,
		b64(a.id), b64(a.id), b64([]byte(client)), b64(data), b64(sig)))
}

// register is where people's passkeys are, and how often each signed.
type register struct {
	keys  map[string][]approvals.Passkey // by user
	count map[string]uint32
}

var errCopied = fault.New(fault.Denied, "copied", "the passkey was copied")

func (r *register) Passkeys(_ context.Context, user string) ([]approvals.Passkey, error) {
	return r.keys[user], nil
}

func (r *register) PasskeyUsed(_ context.Context, _ *audit.Tx, _, credential string, count uint32) error {
	if count <= r.count[credential] {
		return errCopied
	}
	r.count[credential] = count
	return nil
}

func (r *register) add(user string, a *authenticator) {
	r.keys[user] = append(r.keys[user], approvals.Passkey{Credential: b64(a.id), Key: a.cose()})
}

// armed is a room where fiona and carl have passkeys, and a call that takes one.
func armed(w *world) (*approvals.Service, *register, map[string]*authenticator, approvals.Need) {
	reg := &register{keys: map[string][]approvals.Passkey{}, count: map[string]uint32{}}
	keys := map[string]*authenticator{}
	for _, name := range []string{"fiona", "carl"} {
		keys[name] = newAuthenticator(w.t)
		reg.add(w.by(name).ID, keys[name])
	}
	n := need("strong", 1, "finance")
	n.Passkey = true
	return w.room(approvals.Options{Passkeys: reg}), reg, keys, n
}

func challenge(w *world, s *approvals.Service, name, id string, v approvals.Verdict) []byte {
	w.t.Helper()
	c, err := s.Challenge(ctx, w.by(name), id, v)
	w.must(err)
	return c.Challenge
}

func TestApprovingTakesAPasskeyWhereAPolicySaysSo(t *testing.T) {
	each(t, func(w *world) {
		s, _, keys, n := armed(w)
		a, err := s.Hold(ctx, w.held("x", n))
		w.must(err)
		id := a.Request.ID
		b, err := s.Hold(ctx, w.held("y", n))
		w.must(err)
		mine := challenge(w, s, "fiona", id, approvals.Approve)
		refuse := func(name string, assertion jsontext.Value, want error) {
			t.Helper()
			by := w.by("fiona")
			by.Assertion = assertion
			if _, err := s.Decide(ctx, by, id, approvals.Approve, "fine"); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		refuse("none", nil, approvals.ErrPasskey)
		refuse("not JSON", jsontext.Value("{"), approvals.ErrBadPasskey)
		refuse("nothing in it", jsontext.Value(`{"id":"`+b64(keys["fiona"].id)+`"}`), approvals.ErrBadPasskey)
		refuse("too long", jsontext.Value(`{"id":"`+strings.Repeat("a", 9000)+`"}`), approvals.ErrBadPasskey)
		refuse("of another person", keys["carl"].assert(mine), approvals.ErrBadPasskey)
		refuse("of nobody", newAuthenticator(t).assert(mine), approvals.ErrBadPasskey)
		refuse("about another request", keys["fiona"].assert(challenge(w, s, "fiona", b.Request.ID, approvals.Approve)), approvals.ErrBadPasskey)
		refuse("that says no", keys["fiona"].assert(challenge(w, s, "fiona", id, approvals.Deny)), approvals.ErrBadPasskey)
		refuse("another person's challenge", keys["fiona"].assert(challenge(w, s, "carl", id, approvals.Approve)), approvals.ErrBadPasskey)
		for name, how := range map[string]func(*signing){
			"another domain": func(s *signing) { s.rp = "evil.example" }, "another page": func(s *signing) { s.origin = "http://evil.example" },
			"a registration": func(s *signing) { s.kind = "webauthn.create" }, "nobody verified": func(s *signing) { s.flags = 0x01 }, "nobody there": func(s *signing) { s.flags = 0x04 },
		} {
			refuse(name, keys["fiona"].assert(mine, how), approvals.ErrBadPasskey)
		}
		good := keys["fiona"].assert(mine)
		stolen := *keys["fiona"]
		other := newAuthenticator(t)
		other.id = stolen.id
		refuse("signed by another key under its name", other.assert(mine), approvals.ErrBadPasskey)

		by := w.by("fiona")
		by.Assertion = good
		r, err := s.Decide(ctx, by, id, approvals.Approve, "fine")
		if err != nil || r.State != approvals.Approved {
			t.Fatalf("%v %s", err, r.State)
		}
		recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"approval.granted"}, Limit: 10})
		w.must(err)
		if why := s.Check(recs[0].Event); len(recs) != 1 || why != "" || !strings.Contains(string(recs[0].Event.Detail), b64(keys["fiona"].id)) {
			t.Errorf("%d %s %s", len(recs), why, recs[0].Event.Detail)
		}
		// To say no takes none.
		if r, err := s.Decide(ctx, w.by("carl"), b.Request.ID, approvals.Deny, "no"); err != nil || r.State != approvals.Denied {
			t.Errorf("%v %s", err, r.State)
		}
	})
}

// A count that does not grow is a copied passkey's: nothing is decided.
func TestACopiedPasskeyDecidesNothing(t *testing.T) {
	each(t, func(w *world) {
		s, reg, keys, n := armed(w)
		a, err := s.Hold(ctx, w.held("x", n))
		w.must(err)
		reg.count[b64(keys["fiona"].id)] = 100
		by := w.by("fiona")
		by.Assertion = keys["fiona"].assert(challenge(w, s, "fiona", a.Request.ID, approvals.Approve))
		if _, err := s.Decide(ctx, by, a.Request.ID, approvals.Approve, "fine"); !errors.Is(err, errCopied) {
			t.Errorf("%v", err)
		}
		if r, err := s.Get(ctx, a.Request.ID); err != nil || r.State != approvals.Pending || len(r.Decisions) != 0 {
			t.Errorf("%v %+v", err, r)
		}
	})
}

// What nobody has a passkey for is refused at once, and breaking the glass does
// not go around it.
func TestWithoutPasskeysNothingThatNeedsOneIsApproved(t *testing.T) {
	each(t, func(w *world) {
		n := need("strong", 1, "finance")
		n.Passkey = true
		if _, err := w.Hold(ctx, w.held("x", n)); !errors.Is(err, approvals.ErrImpossible) || !strings.Contains(err.Error(), "passkey") {
			t.Errorf("%v", err)
		}
		s, _, _, n := armed(w)
		n.Quorum = 3 // finance has three, two of them with passkeys
		if _, err := s.Hold(ctx, w.held("y", n)); !errors.Is(err, approvals.ErrImpossible) {
			t.Errorf("%v", err)
		}
		n.Quorum = 2
		a, err := s.Hold(ctx, w.held("y", n))
		w.must(err)
		if _, err := s.Override(ctx, w.by("root"), a.Request.ID, "urgent"); !errors.Is(err, approvals.ErrPasskey) {
			t.Errorf("%v", err)
		}
	})
}

// One policy that demands a passkey is enough, whatever others are met with.
func TestTheStrongestOfSeveralPoliciesCounts(t *testing.T) {
	each(t, func(w *world) {
		s, _, _, n := armed(w)
		for _, needs := range [][]approvals.Need{{need("weak", 1, "finance"), n}, {n, need("weak", 1, "legal")}} {
			a, err := s.Hold(ctx, w.held(needs[0].Policy, needs...))
			w.must(err)
			if _, err := s.Decide(ctx, w.by("carl"), a.Request.ID, approvals.Approve, "fine"); !errors.Is(err, approvals.ErrPasskey) {
				t.Errorf("%v", err)
			}
		}
	})
}

// The log's verification finds a decision that was not signed for what its
// event says.
func TestVerificationFindsForgedDecisions(t *testing.T) {
	each(t, func(w *world) {
		a, b := w.hold(w.held("a")).Request.ID, w.hold(w.held("b")).Request.ID
		w.approve("fiona", a)
		w.approve("carl", b)
		recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"approval.granted"}, Limit: 10, Oldest: true})
		w.must(err)
		first, second := recs[0].Event, recs[1].Event
		if why := w.Check(first); why != "" {
			t.Fatal(why)
		}
		for name, forge := range map[string]func(*audit.Event){
			"another's statement": func(e *audit.Event) { e.Detail = second.Detail },
			"another person":      func(e *audit.Event) { e.Actor = second.Actor },
			"another request":     func(e *audit.Event) { e.Object = second.Object },
			"another verdict": func(e *audit.Event) {
				e.Detail = jsontext.Value(strings.Replace(string(e.Detail), `"verdict":"approve"`, `"verdict":"deny"`, 1))
			},
			"another digest": func(e *audit.Event) {
				e.Detail = jsontext.Value(strings.Replace(string(e.Detail), `"digest":"`, `"digest":"0`, 1))
			},
			"another reason": func(e *audit.Event) {
				e.Detail = jsontext.Value(strings.Replace(string(e.Detail), `\"reason\":\"fine\"`, `\"reason\":\"fime\"`, 1))
			},
			"no statement": func(e *audit.Event) { e.Detail = jsontext.Value(`{}`) },
		} {
			e := first
			forge(&e)
			if w.Check(e) == "" {
				t.Errorf("%s: not found", name)
			}
		}
		other := audit.Event{Type: "approval.requested"}
		if why := w.Check(other); why != "" {
			t.Errorf("%s", why)
		}
	})
}
