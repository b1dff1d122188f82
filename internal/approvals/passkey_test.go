package approvals_test

import (
	"encoding/json/jsontext"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/passkeys"
	"github.com/countersign/countersign/test/passkey"
)

// what a browser on the room's own pages says.
var honest = passkey.Signing{RP: "countersign.example", Origin: "http://countersign.example", Flags: 0x05}

// keys is the room of passkeys beside a world.
type keys struct {
	*passkeys.Service
	of map[string]*passkey.Authenticator
}

// armed is a room where fiona and carl have passkeys, and a call that takes one.
func armed(w *world) (*approvals.Service, keys, approvals.Need) {
	w.t.Helper()
	room, err := passkeys.New(passkeys.Options{DB: w.db, Log: w.log, Identity: w.ids, URL: func() string { return "http://countersign.example" }, Now: w.clock})
	w.must(err)
	k := keys{room, map[string]*passkey.Authenticator{}}
	for _, name := range []string{"fiona", "carl"} {
		k.of[name] = passkey.New()
		by := w.by(name)
		const password = "correct horse battery"
		w.must(w.ids.SetPassword(ctx, audit.System, "test", name, "", password))
		session, _, err := w.ids.Login(ctx, name, password, "")
		w.must(err)
		r, err := room.Begin(ctx, by.Actor(), session.ID)
		w.must(err)
		_, err = room.Register(ctx, by.Actor(), session.ID, "laptop", k.of[name].Make(r.Challenge, honest))
		w.must(err)
	}
	n := need("strong", 1, "finance")
	n.Passkey = true
	return w.room(approvals.Options{Passkeys: room}), k, n
}

func challenge(w *world, s *approvals.Service, name, id string, v approvals.Verdict) []byte {
	w.t.Helper()
	c, err := s.Challenge(ctx, w.by(name), id, v)
	w.must(err)
	return c.Challenge
}

func TestApprovingTakesAPasskeyWhereAPolicySaysSo(t *testing.T) {
	each(t, func(w *world) {
		s, keys, n := armed(w)
		a, err := s.Hold(ctx, w.held("x", n))
		w.must(err)
		id := a.Request.ID
		b, err := s.Hold(ctx, w.held("y", n))
		w.must(err)
		fiona := keys.of["fiona"]
		mine := challenge(w, s, "fiona", id, approvals.Approve)
		refuse := func(name string, assertion []byte, want error) {
			t.Helper()
			by := w.by("fiona")
			by.Assertion = assertion
			if _, err := s.Decide(ctx, by, id, approvals.Approve, "fine"); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := s.Challenge(ctx, w.by("fiona"), id, "maybe"); !errors.Is(err, approvals.ErrVerdict) {
			t.Errorf("%v", err)
		}
		refuse("none", nil, approvals.ErrPasskey)
		refuse("not JSON", []byte("{"), approvals.ErrBadPasskey)
		refuse("nothing in it", []byte(`{"id":"`+passkey.B64(fiona.ID)+`"}`), approvals.ErrBadPasskey)
		refuse("too long", []byte(`{"id":"`+strings.Repeat("a", 9000)+`"}`), approvals.ErrBadPasskey)
		refuse("of another person", keys.of["carl"].Sign(mine, honest), approvals.ErrBadPasskey)
		refuse("of nobody", passkey.New().Sign(mine, honest), approvals.ErrBadPasskey)
		refuse("never asked", fiona.Sign([]byte("a challenge of their own making"), honest), passkeys.ErrChallenge)
		for name, how := range map[string]func(*passkey.Signing){
			"another domain": func(s *passkey.Signing) { s.RP = "evil.example" }, "another page": func(s *passkey.Signing) { s.Origin = "http://evil.example" },
			"a registration": func(s *passkey.Signing) { s.Type = "webauthn.create" }, "nobody verified": func(s *passkey.Signing) { s.Flags = 0x01 }, "nobody there": func(s *passkey.Signing) { s.Flags = 0x04 },
			"two challenges": func(s *passkey.Signing) { s.Extra = `,"challenge":"AAAA"` },
		} {
			bad := honest
			how(&bad)
			refuse(name, fiona.Sign(mine, bad), approvals.ErrBadPasskey)
		}
		other := passkey.New()
		other.ID = fiona.ID
		refuse("signed by another key under its name", other.Sign(mine, honest), approvals.ErrBadPasskey)

		by := w.by("fiona")
		by.Assertion = fiona.Sign(mine, honest)
		r, err := s.Decide(ctx, by, id, approvals.Approve, "fine")
		if err != nil || r.State != approvals.Approved {
			t.Fatalf("%v %s", err, r.State)
		}
		recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"approval.granted"}, Limit: 10})
		w.must(err)
		if why := s.Check(recs[0].Event); len(recs) != 1 || why != "" || !strings.Contains(string(recs[0].Event.Detail), passkey.B64(fiona.ID)) {
			t.Errorf("%d %s %s", len(recs), why, recs[0].Event.Detail)
		}
		if found, err := keys.Of(ctx, "fiona"); err != nil || !found[0].LastUsed.Equal(w.clock()) || found[0].Count != fiona.Count {
			t.Errorf("%v %+v", err, found)
		}
		// To say no takes none.
		if r, err := s.Decide(ctx, w.by("carl"), b.Request.ID, approvals.Deny, "no"); err != nil || r.State != approvals.Denied {
			t.Errorf("%v %s", err, r.State)
		}
		if _, err := s.Challenge(ctx, w.by("carl"), b.Request.ID, approvals.Approve); !errors.Is(err, approvals.ErrSettled) {
			t.Errorf("%v", err)
		}
	})
}

// What was asked is good for one decision by one person in one session, and
// not for long.
func TestASignatureCountsOnceAndForWhatWasAsked(t *testing.T) {
	each(t, func(w *world) {
		s, keys, n := armed(w)
		n.Quorum = 2
		var ids []string
		for _, content := range []string{"x", "y", "z"} {
			a, err := s.Hold(ctx, w.held(content, n))
			w.must(err)
			ids = append(ids, a.Request.ID)
		}
		fiona := keys.of["fiona"]
		decide := func(name string, by approvals.By, id string, assertion []byte, want error) {
			t.Helper()
			by.Assertion = assertion
			if _, err := s.Decide(ctx, by, id, approvals.Approve, "fine"); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		by := w.by("fiona")
		decide("about another request", by, ids[1], fiona.Sign(challenge(w, s, "fiona", ids[0], approvals.Approve), honest), approvals.ErrBadPasskey)
		decide("that says no", by, ids[0], fiona.Sign(challenge(w, s, "fiona", ids[0], approvals.Deny), honest), approvals.ErrBadPasskey)
		decide("another person's challenge", by, ids[0], fiona.Sign(challenge(w, s, "carl", ids[0], approvals.Approve), honest), passkeys.ErrChallenge)

		asked := challenge(w, s, "fiona", ids[0], approvals.Approve)
		elsewhere := by
		elsewhere.Credential = "tok_2"
		decide("in another session", elsewhere, ids[0], fiona.Sign(asked, honest), passkeys.ErrChallenge)
		w.pass(3 * time.Minute)
		decide("too late", by, ids[0], fiona.Sign(asked, honest), passkeys.ErrChallenge)

		first := challenge(w, s, "fiona", ids[0], approvals.Approve)
		second := challenge(w, s, "fiona", ids[0], approvals.Approve)
		decide("asked again meanwhile", by, ids[0], fiona.Sign(first, honest), passkeys.ErrChallenge)
		good := fiona.Sign(second, honest)
		decide("good", by, ids[0], good, nil)
		decide("replayed", by, ids[0], good, passkeys.ErrChallenge)
		decide("replayed about another", by, ids[1], good, passkeys.ErrChallenge)

		asked = challenge(w, s, "fiona", ids[2], approvals.Approve)
		mine, err := keys.Of(ctx, "fiona")
		w.must(err)
		w.must(keys.Remove(ctx, by.Actor(), "lost", mine[0].ID))
		decide("removed", by, ids[2], fiona.Sign(asked, honest), approvals.ErrBadPasskey)
		decide("without any", by, ids[2], nil, approvals.ErrNoPasskey)
		if _, err := s.Challenge(ctx, by, ids[2], approvals.Approve); !errors.Is(err, approvals.ErrNoPasskey) {
			t.Errorf("%v", err)
		}
	})
}

// A count that does not grow is a copied passkey's: nothing is decided.
func TestACopiedPasskeyDecidesNothing(t *testing.T) {
	each(t, func(w *world) {
		s, keys, n := armed(w)
		var ids []string
		for _, content := range []string{"x", "y"} {
			a, err := s.Hold(ctx, w.held(content, n))
			w.must(err)
			ids = append(ids, a.Request.ID)
		}
		fiona, by := keys.of["fiona"], w.by("fiona")
		fiona.Count = 100
		by.Assertion = fiona.Sign(challenge(w, s, "fiona", ids[0], approvals.Approve), honest)
		_, err := s.Decide(ctx, by, ids[0], approvals.Approve, "fine")
		w.must(err)
		fiona.Count = 100 // the copy signs as the original did
		by.Assertion = fiona.Sign(challenge(w, s, "fiona", ids[1], approvals.Approve), honest)
		if _, err := s.Decide(ctx, by, ids[1], approvals.Approve, "fine"); !errors.Is(err, passkeys.ErrCopied) {
			t.Errorf("%v", err)
		}
		if r, err := s.Get(ctx, ids[1]); err != nil || r.State != approvals.Pending || len(r.Decisions) != 0 {
			t.Errorf("%v %+v", err, r)
		}
		wait(t, func() bool {
			recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"user.passkey_suspected"}, Limit: 2})
			w.must(err)
			return len(recs) == 1 && recs[0].Event.Object == "user/fiona"
		})
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
		s, _, n := armed(w)
		n.Quorum = 3 // finance has three, two of them with passkeys
		if _, err := s.Hold(ctx, w.held("y", n)); !errors.Is(err, approvals.ErrImpossible) {
			t.Errorf("%v", err)
		}
		n.Quorum = 2
		a, err := s.Hold(ctx, w.held("y", n))
		w.must(err)
		if _, err := s.Override(ctx, w.by("root"), a.Request.ID, "urgent"); !errors.Is(err, approvals.ErrNoPasskey) {
			t.Errorf("%v", err)
		}
	})
}

// One policy that demands a passkey is enough, whatever others are met with.
func TestTheStrongestOfSeveralPoliciesCounts(t *testing.T) {
	each(t, func(w *world) {
		s, _, n := armed(w)
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
