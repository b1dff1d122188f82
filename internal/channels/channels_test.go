package channels_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/channels"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/test/passkey"
)

// verified checks a webhook as its receiver does.
func verified(g got, now time.Time) bool {
	n, err := strconv.ParseInt(g.header.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || now.Sub(time.Unix(n, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "%s.%d.%s", g.header.Get("Webhook-Id"), n, g.body)
	return g.header.Get("Webhook-Signature") == "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// A webhook is tried again until it is taken, under the same id, signed anew;
// it says nothing of contents unless it is told to, and never a secret.
func TestAWebhookIsSignedAndTriedAgain(t *testing.T) {
	each(t, func(w *world) {
		r := w.receiver(func(rw http.ResponseWriter, n int) {
			if n == 1 {
				rw.WriteHeader(503)
			}
		})
		w.add("siem", channels.Spec{Kind: "webhook", URL: r.URL + "/hook", Secret: "siem-key", AllowPrivate: true}, map[string]string{"siem-key": key})
		id := w.hold(`{"cents":500000,"to":"Nordwind\u202e `+key+`"}`, "finance")
		w.until(func() bool { return len(r.all()) == 1 && w.failed("siem") == 1 })
		w.pass(2 * time.Minute)
		w.until(func() bool { return w.stand("siem", "sent") == 1 })
		all := r.all()
		if len(all) != 2 || all[0].header.Get("Webhook-Id") != all[1].header.Get("Webhook-Id") || all[0].header.Get("Webhook-Timestamp") == all[1].header.Get("Webhook-Timestamp") {
			t.Fatalf("%d attempts: %v", len(all), all)
		}
		for _, g := range all {
			if !verified(g, w.clock().Add(-time.Minute)) {
				t.Errorf("not signed: %v", g.header)
			}
		}
		var m channels.Message
		decode(t, all[1].body, &m)
		if m.Type != "approval.requested" || m.Approval.ID != id || m.Approval.Summary != "payer wants to call ledger/pay" || m.Approval.Arguments != nil || !strings.HasSuffix(m.Link, "/approvals/"+id) || strings.Contains(m.Link, "/api/") {
			t.Errorf("%s", all[1].body)
		}
		_, err := w.Put(ctx, audit.System, "test", channels.Channel{Name: "siem", Spec: channels.Spec{Kind: "webhook", Owner: "root", URL: r.URL, Secret: "siem-key", AllowPrivate: true, Contents: true}})
		w.must(err)
		w.pass(time.Minute)
		_, err = w.approvals.Decide(ctx, w.by("fiona"), id, approvals.Deny, "no "+key)
		w.must(err)
		w.until(func() bool { return len(r.all()) == 3 })
		last := string(r.all()[2].body)
		if !strings.Contains(last, "5,000.00 EUR") || !strings.Contains(last, "⟨U+202E⟩") || !strings.Contains(last, `"approval.settled"`) || strings.Contains(last, key) {
			t.Errorf("%s", last)
		}
		// Each attempt is on record, with its end.
		recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{audit.CallIntent}, Limit: 100})
		w.must(err)
		if len(recs) != 3 || recs[0].Event.Connection != "channel.siem" || recs[0].Event.Tool != "channel/settled" {
			t.Errorf("%d attempts on record", len(recs))
		}
	})
}

// A channel that hangs or refuses holds up nobody; in the end its message is
// dead, and somebody has to see that.
func TestAChannelThatIsDown(t *testing.T) {
	each(t, func(w *world) {
		hang := make(chan struct{})
		bad := w.receiver(func(http.ResponseWriter, int) { <-hang })
		w.t.Cleanup(func() { close(hang) })
		refusing := w.receiver(func(rw http.ResponseWriter, _ int) { rw.WriteHeader(400) })
		good := w.receiver(func(http.ResponseWriter, int) {})
		for name, r := range map[string]*receiver{"hangs": bad, "refuses": refusing, "works": good} {
			w.add(name, channels.Spec{Kind: "webhook", URL: r.URL, Secret: name, AllowPrivate: true}, map[string]string{name: key + name})
		}
		id := w.hold(`{"cents":1,"to":"x"}`, "finance")
		w.until(func() bool { return len(good.all()) == 1 && len(bad.all()) == 1 })
		if _, err := w.approvals.Decide(ctx, w.by("fiona"), id, approvals.Approve, "fine"); err != nil {
			t.Fatal(err)
		}
		w.until(func() bool { return len(good.all()) == 2 })
		for i := 2; i <= 3; i++ {
			w.until(func() bool { return w.failed("refuses") >= 2*(i-1) })
			w.pass(2 * time.Minute)
		}
		w.until(func() bool { return w.stand("refuses", "dead") == 2 })
		open, err := w.findings.List(ctx, findings.Query{Object: "channel/refuses", Status: findings.Open})
		w.must(err)
		if len(open) != 1 || !strings.Contains(open[0].Detail, "status 400") {
			t.Errorf("%+v", open)
		}
		if n := len(refusing.all()); n != 6 {
			t.Errorf("%d attempts", n)
		}
	})
}

func (w *world) slack() *receiver {
	w.t.Helper()
	r := w.receiver(func(rw http.ResponseWriter, n int) { fmt.Fprintf(rw, `{"ok":true,"ts":"1700.%d"}`, n) })
	w.add("ops", channels.Spec{Kind: "slack", URL: r.URL, Secret: "bot", Signing: "signing", Room: "C1", AllowPrivate: true, Groups: []string{"finance"}},
		map[string]string{"bot": "xoxb-a-bot-token-for-tests", "signing": key})
	return r
}

// from is what Slack sends, signed at a time by a key.
func (w *world) from(at time.Time, by, body string) (map[string]any, error) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(by))
	fmt.Fprintf(mac, "v0:%s:%s", stamp, body)
	return w.FromSlack(ctx, "ops", stamp, "v0="+hex.EncodeToString(mac.Sum(nil)), "192.0.2.1", []byte(body))
}

func (w *world) link(name, user string) string {
	w.t.Helper()
	code, _, err := w.LinkCode(ctx, w.by(name).Person, "ops")
	w.must(err)
	w.pass(time.Second)
	out, err := w.from(w.clock(), key, url.Values{"command": {"/countersign"}, "text": {"link " + code}, "team_id": {"T1"}, "user_id": {user}}.Encode())
	w.must(err)
	return fmt.Sprint(out["text"])
}

// press is a button pressed by a user of Slack.
func press(user, verdict, approval, reason, reply string) string {
	b, err := json.Marshal(map[string]any{"type": "block_actions", "user": map[string]string{"id": user, "team_id": "T1"}, "channel": map[string]string{"id": "C1"}, "response_url": reply,
		"actions": []any{map[string]string{"action_id": verdict, "value": approval}}, "state": map[string]any{"values": map[string]any{"reason": map[string]any{"reason": map[string]string{"value": reason}}}}})
	if err != nil {
		panic(err)
	}
	return url.Values{"payload": {string(b)}}.Encode()
}

func TestDecidingFromSlack(t *testing.T) {
	each(t, func(w *world) {
		r := w.slack()
		id := w.hold(`{"cents":1240000,"to":"<!channel> <https://evil.example|Nordwind>"}`, "finance")
		other := w.hold(`{"cents":1,"to":"x"}`, "legal")
		w.until(func() bool { return len(r.all()) == 1 })
		first := r.all()[0]
		if first.path != "/chat.postMessage" || first.header.Get("Authorization") != "Bearer xoxb-a-bot-token-for-tests" {
			t.Errorf("%s %v", first.path, first.header)
		}
		var m struct {
			Text   string           `json:"text"`
			Blocks []map[string]any `json:"blocks"`
		}
		decode(t, first.body, &m)
		if strings.ContainsAny(m.Text, "<>") || !strings.Contains(m.Text, "12,400.00 EUR") || len(m.Blocks) != 4 || strings.Contains(string(first.body), `"mrkdwn":true`) {
			t.Errorf("%s", first.body)
		}
		pressed := func(user, verdict, id, reason string) error {
			w.pass(time.Second)
			_, err := w.from(w.clock(), key, press(user, verdict, id, reason, r.URL+"/reply"))
			return err
		}
		// Nobody is somebody because Slack says so.
		w.must(pressed("U1", "approve", id, "fine"))
		w.until(func() bool { return len(r.all()) == 2 })
		if got := string(r.all()[1].body); !strings.Contains(got, "linked to nobody") {
			t.Error(got)
		}
		if said := w.link("carl", "U1"); !strings.Contains(said, "is carl now") {
			t.Fatal(said)
		}
		w.must(pressed("U1", "approve", id, "")) // without a reason
		w.must(pressed("U1", "approve", other, "not told here"))
		w.until(func() bool { return len(r.all()) == 4 })
		if a, b := string(r.all()[2].body), string(r.all()[3].body); !strings.Contains(a+b, "say why") || !strings.Contains(a+b, "was not told of that request") {
			t.Errorf("%s %s", a, b)
		}
		w.must(pressed("U1", "approve", id, "the order is there"))
		got, err := w.approvals.Get(ctx, id)
		w.must(err)
		if got.State != approvals.Approved || len(got.Decisions) != 1 || got.Decisions[0].Name != "carl" || got.Decisions[0].Channel != "slack" || got.Decisions[0].Credential != "slack/T1/U1" {
			t.Fatalf("%s %+v", got.State, got.Decisions)
		}
		// The message loses its buttons.
		w.until(func() bool {
			for _, g := range r.all() {
				if g.path == "/chat.update" {
					return strings.Contains(string(g.body), `"ts":"1700.1"`) && !strings.Contains(string(g.body), `"approve"`)
				}
			}
			return false
		})
		w.must(w.Unlink(ctx, w.by("carl").Person, "ops"))
		if err := w.Unlink(ctx, w.by("carl").Person, "ops"); !errors.Is(err, channels.ErrUnlinked) {
			t.Errorf("%v", err)
		}
	})
}

// What is forged, old, replayed or for another place does nothing.
// Slack cannot have a passkey sign: what takes one is not approved there, by
// whoever has one either; to say no takes none.
func TestWhatTakesAPasskeyIsNotApprovedFromSlack(t *testing.T) {
	each(t, func(w *world) {
		const password = "correct horse battery"
		carl := w.by("carl").Actor()
		w.must(w.ids.SetPassword(ctx, audit.System, "test", "carl", "", password))
		session, _, err := w.ids.Login(ctx, "carl", password, "")
		w.must(err)
		asked, err := w.passkeys.Begin(ctx, carl, session.ID)
		w.must(err)
		_, err = w.passkeys.Register(ctx, carl, session.ID, "laptop", passkey.New().Make(asked.Challenge, passkey.Signing{RP: "countersign.example", Origin: "http://countersign.example", Flags: 0x05}))
		w.must(err)
		r := w.slack()
		w.link("carl", "U1")
		before := len(r.all())
		id := w.holds(`{"cents":1,"to":"x"}`, approvals.Need{Policy: "strong", Groups: []approvals.Group{{Name: "finance"}}, Quorum: 1, DecideWithin: time.Hour, ExecuteWithin: time.Hour, Passkey: true})
		w.until(func() bool { return len(r.all()) == before+1 })
		pressed := func(verdict string, want approvals.State) {
			t.Helper()
			w.pass(time.Second)
			_, err := w.from(w.clock(), key, press("U1", verdict, id, "the order is there", r.URL+"/reply"))
			w.must(err)
			if got, err := w.approvals.Get(ctx, id); err != nil || got.State != want {
				t.Errorf("%s: %v %s", verdict, err, got.State)
			}
		}
		pressed("approve", approvals.Pending)
		w.until(func() bool { return len(r.all()) > before+1 })
		if got := string(r.all()[before+1].body); !strings.Contains(got, "signs with their passkey") {
			t.Error(got)
		}
		pressed("deny", approvals.Denied)
	})
}

func TestWhatIsNotSlack(t *testing.T) {
	each(t, func(w *world) {
		r := w.slack()
		id := w.hold(`{"cents":1,"to":"x"}`, "finance")
		w.until(func() bool { return len(r.all()) == 1 })
		w.link("fiona", "U2")
		body := press("U2", "deny", id, "no", "")
		for what, send := range map[string]func() error{
			"another key":   func() error { _, err := w.from(w.clock(), "another key", body); return err },
			"old":           func() error { _, err := w.from(w.clock().Add(-6*time.Minute), key, body); return err },
			"of the future": func() error { _, err := w.from(w.clock().Add(6*time.Minute), key, body); return err },
			"no signature":  func() error { _, err := w.FromSlack(ctx, "ops", "", "", "", []byte(body)); return err },
			"no channel":    func() error { _, err := w.FromSlack(ctx, "nowhere", "1", "v0=00", "", []byte(body)); return err },
			"another body": func() error {
				stamp := strconv.FormatInt(w.clock().Unix(), 10)
				mac := hmac.New(sha256.New, []byte(key))
				fmt.Fprintf(mac, "v0:%s:%s", stamp, body)
				_, err := w.FromSlack(ctx, "ops", stamp, "v0="+hex.EncodeToString(mac.Sum(nil)), "", []byte(strings.Replace(body, "deny", "approve", 1)))
				return err
			},
		} {
			if err := send(); !errors.Is(err, channels.ErrSigned) {
				t.Errorf("%s: %v", what, err)
			}
		}
		w.pass(time.Second)
		if _, err := w.from(w.clock(), key, strings.Replace(body, "C1", "C2", 1)); !errors.Is(err, channels.ErrCallback) {
			t.Errorf("from another conversation: %v", err)
		}
		at := w.clock().Add(time.Second)
		link := press("U9", "look", id, "", "")
		if _, err := w.from(at, key, link); err != nil {
			t.Fatal(err)
		}
		if _, err := w.from(at, key, link); !errors.Is(err, channels.ErrSigned) {
			t.Errorf("replayed: %v", err)
		}
		got, err := w.approvals.Get(ctx, id)
		w.must(err)
		if got.State != approvals.Pending {
			t.Errorf("%s", got.State)
		}
		code, _, err := w.LinkCode(ctx, w.by("carl").Person, "ops")
		w.must(err)
		w.pass(11 * time.Minute)
		out, err := w.from(w.clock(), key, url.Values{"command": {"/countersign"}, "text": {"link " + code}, "team_id": {"T1"}, "user_id": {"U3"}}.Encode())
		if err != nil || !strings.Contains(fmt.Sprint(out["text"]), "not good") {
			t.Errorf("an old code: %v %v", out, err)
		}
	})
}

func TestWhatIsNoChannel(t *testing.T) {
	for what, spec := range map[string]channels.Spec{
		"kind":        {Kind: "pigeon", Secret: "s"},
		"no secret":   {Kind: "webhook", URL: "https://a.example"},
		"plain":       {Kind: "webhook", URL: "http://a.example", Secret: "s"},
		"user in url": {Kind: "webhook", URL: "https://u:p@a.example", Secret: "s"},
		"room":        {Kind: "slack", Secret: "s", Signing: "t", Room: "#general"},
		"url":         {Kind: "notice", Secret: "s", URL: "https://a.example"},
		"news":        {Kind: "webhook", URL: "https://a.example", Secret: "s", What: []approvals.What{"gossip"}},
	} {
		spec.Owner = "root"
		if _, err := (channels.Channel{Name: "x", Spec: spec}).Normalize(); !errors.Is(err, channels.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
