package tokens_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
)

// enrol asks to be let in with a key.
func (w *world) enrol(agent string, p pair, jwk []byte, over m) reply {
	w.t.Helper()
	return w.post("/oauth2/device_authorization", url.Values{"client_id": {agent}, "jwk": {string(jwk)}, "host": {"build-7"}, "client_assertion_type": {tokens.AssertionType}, "client_assertion": {w.assertion(agent, p, over)}})
}

func (w *world) poll8628(agent, device string, p pair) url.Values {
	return url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {device}, "client_assertion_type": {tokens.AssertionType}, "client_assertion": {w.assertion(agent, p, nil)}, "resource": {w.Issuer() + "/mcp/ledger"}}
}

// A person who sees a machine's code lets it in; its key proves it from then on.
func TestEnrolment(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p := newPair(t, "machine")
		r := w.enrol("bot", p, p.jwk(t), nil)
		if r.Status != 200 || len(r.User) != 9 || r.Device == "" {
			t.Fatalf("%+v", r)
		}
		w.fails("before anyone answered", w.poll8628("bot", r.Device, p), 400, "authorization_pending")
		w.fails("again at once", w.poll8628("bot", r.Device, p), 400, "slow_down")
		w.fails("the key is not registered yet", w.credentials(w.assertion("bot", p, nil), "/mcp/ledger"), 401, "invalid_client")
		// Forged: the code without the key, the key of somebody else, a made-up code.
		thief := newPair(t, "machine")
		w.fails("the device code without its key", w.poll8628("bot", r.Device, thief), 401, "invalid_client")
		w.fails("a device code that is made up", w.poll8628("bot", "csd_"+strings.Repeat("A", 26), p), 400, "invalid_grant")
		if _, err := w.Decide(ctx, w.bob, "", r.User, "", true); fault.KindOf(err) != fault.Denied {
			t.Errorf("somebody who does not answer for the agent approved: %v", err)
		}
		if _, err := w.Decide(ctx, w.ada, "", r.User, "helper", true); err == nil {
			t.Error("approved as another agent than the person meant")
		}
		if _, err := w.Decide(ctx, w.ada, "", "BBBB-BBBB", "", true); fault.KindOf(err) != fault.NotFound {
			t.Errorf("a made-up code: %v", err)
		}
		e, err := w.Decide(ctx, w.ada, "the new machine", strings.ToLower(strings.ReplaceAll(r.User, "-", "")), "bot", true)
		must(t, err)
		if e.Host != "build-7" || e.DecidedBy != "ada" || e.ClientKey == "" {
			t.Errorf("%+v", e)
		}
		if _, err := w.Decide(ctx, w.ada, "", r.User, "", true); err == nil {
			t.Error("approved twice")
		}
		w.fails("approved, without the key", w.poll8628("bot", r.Device, thief), 401, "invalid_client")
		got := w.token(w.poll8628("bot", r.Device, p))
		w.accepts("the machine", got.Access)
		w.fails("the code again", w.poll8628("bot", r.Device, p), 400, "invalid_grant")
		next := w.get("bot", p, "", "/mcp/ledger")
		w.accepts("by its key", next)
		must(t, w.RevokeClientKey(ctx, w.ada, "sold", "bot", e.ClientKey))
		w.refuses("after its key was revoked", got.Access, identity.ErrRevoked)
		w.refuses("what it had by its key", next, identity.ErrRevoked)
		w.nowhere(r.User, r.Device)
		ev := w.events("enrolment.approved", 1)[0]
		if ev.Actor.Name != "ada" || ev.Reason != "the new machine" || !strings.Contains(string(ev.Detail), "build-7") {
			t.Errorf("%+v", ev)
		}
	})
}

// Enrolments end: refused, expired; and people nobody knows cannot write
// without bound.
func TestEnrolmentsEnd(t *testing.T) {
	w := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	p, other := newPair(t, "one"), newPair(t, "two")
	r := w.enrol("bot", p, p.jwk(t), nil)
	_, err := w.Decide(ctx, w.ada, "", r.User, "", false)
	must(t, err)
	w.fails("refused", w.poll8628("bot", r.Device, p), 400, "access_denied")
	r = w.enrol("bot", p, p.jwk(t), nil)
	w.clock.pass(tokens.EnrolLife + time.Second)
	w.fails("expired", w.poll8628("bot", r.Device, p), 400, "expired_token")
	if _, err := w.Decide(ctx, w.ada, "", r.User, "", true); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an expired code was approved: %v", err)
	}
	for what, bad := range map[string]reply{
		"another's key":    w.enrol("bot", other, p.jwk(t), nil),
		"no key":           w.enrol("bot", p, nil, nil),
		"a private key":    w.enrol("bot", p, mustJSON(t, p), nil),
		"no name":          w.enrol("", p, p.jwk(t), nil),
		"another audience": w.enrol("bot", p, p.jwk(t), m{"aud": "https://other.example"}),
	} {
		if bad.Device != "" || bad.Status < 400 {
			t.Errorf("%s: %+v", what, bad)
		}
	}
	open := 0
	for range 15 {
		if r := w.enrol("bot", p, p.jwk(t), nil); r.Device != "" {
			open++
		} else if r.Status != 429 {
			t.Errorf("%+v", r)
		}
	}
	if open != 10 {
		t.Errorf("%d enrolments wait for one address", open)
	}
}
