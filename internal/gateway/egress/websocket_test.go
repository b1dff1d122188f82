package egress_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/test/line"
)

// chat answers every message with itself, and with what it was sent as
// authorization if it is asked for that.
func chat(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			t.Log(err)
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if string(b) == "key?" {
				b = []byte(r.Header.Get("Authorization"))
			}
			if c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	}
}

func dial(t *testing.T, r *rig) (*websocket.Conn, *http.Response) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, r.url+"/chat?room=a", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + r.Key}}, Subprotocols: []string{"chat"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		t.Fatal(err, resp)
	}
	c.SetReadLimit(1 << 20)
	t.Cleanup(func() { c.CloseNow() })
	return c, resp
}

var chatOperations = map[string]string{"chat": "GET /chat?room websocket", "plain": "GET /plain"}

// The hidden hijacked connections of the test's servers end with the test.
func TestWebSocket(t *testing.T) {
	r := newRig(t, nil, chatOperations)
	r.up.Answer(chat(t))
	c, resp := dial(t, r)
	if c.Subprotocol() != "chat" || resp.Header.Get("Sec-WebSocket-Extensions") != "" || resp.Header.Get("X-Countersign-Call") == "" {
		t.Errorf("%q %v", c.Subprotocol(), resp.Header)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, m := range []string{"hello", "", strings.Repeat("é", 20_000), "key?"} {
		if err := c.Write(ctx, websocket.MessageText, []byte(m)); err != nil {
			t.Fatal(err)
		}
		_, got, err := c.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if m == "key?" {
			if strings.Contains(string(got), line.Secret) || !strings.HasPrefix(string(got), "Bearer ****") {
				t.Errorf("our credential came back: %s", got)
			}
		} else if string(got) != m {
			t.Errorf("%d bytes came back as %d", len(m), len(got))
		}
	}
	if err := c.Write(ctx, websocket.MessageBinary, []byte{0, 1, 0xff}); err != nil {
		t.Fatal(err)
	}
	if kind, got, err := c.Read(ctx); err != nil || kind != websocket.MessageBinary || !bytes.Equal(got, []byte{0, 1, 0xff}) {
		t.Errorf("%v %v %v", kind, got, err)
	}
	c.Close(websocket.StatusNormalClosure, "")
	o := r.Events(1, audit.CallOutcome)[0]
	if o.Event.Outcome.Code != 101 || !strings.Contains(string(o.Event.Detail), `"to_upstream":{"bytes":40012,`) || strings.Count(string(o.Event.Detail), `"messages":5`) != 2 {
		t.Errorf("outcome %+v %s", o.Event.Outcome, o.Event.Detail)
	}
	if kept := string(o.Payloads["messages"]); !strings.HasPrefix(kept, "> hello\n< hello\n") || strings.Contains(kept, line.Secret) {
		t.Errorf("kept %.100s", kept)
	}
	if got := r.lastArgs(1); got != `{"query":{"room":"a"}}` {
		t.Errorf("arguments %s", got)
	}
}

func TestWebSocketIsCutByARevokedKey(t *testing.T) {
	r := newRig(t, nil, chatOperations)
	r.up.Answer(chat(t))
	c, _ := dial(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte("hi")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Identity.PutAgent(ctx, line.By, line.Reason, identity.Agent{Name: "invoice-checker", Owner: "pat", Stage: identity.Production, Purpose: "x"}); err != nil {
		t.Fatal(err)
	}
	keys, err := r.Identity.Keys(ctx, "invoice-checker")
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	if err := r.Identity.RevokeKey(ctx, line.By, line.Reason, keys[0].ID); err != nil {
		t.Fatal(err)
	}
	r.Gateway.Recheck()
	start := time.Now()
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("read %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	if o := r.Events(1, audit.CallOutcome)[0].Event.Outcome; o.Status != audit.Cancelled {
		t.Errorf("outcome %+v", o)
	}
}

func TestWebSocketHandshakesRefused(t *testing.T) {
	r := newRig(t, echo, chatOperations)
	good := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	for name, c := range map[string]struct {
		path, code string
		header     []string
	}{
		"no upgrade":             {"/chat", "bad_upgrade", nil},
		"a plain operation":      {"/plain", "bad_upgrade", good},
		"another version":        {"/chat", "bad_upgrade", append([]string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "8"}, good[6:]...)},
		"a key that is none":     {"/chat", "bad_upgrade", append(append([]string{}, good[:6]...), "Sec-WebSocket-Key", "x")},
		"an upstream that won't": {"/chat", "", good},
	} {
		a := r.ask("GET", c.path, nil, c.header...)
		if a.code != c.code || c.code == "" && a.status != 200 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	// An answer to another handshake than ours is none.
	r.up.Answer(func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, _ := http.NewResponseController(w).Hijack()
		defer conn.Close()
		_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n")
		buf.Flush()
	})
	if a := r.ask("GET", "/chat", nil, good...); a.status != 502 || a.code != "upstream_answer" {
		t.Errorf("a wrong accept: %+v", a)
	}
}

// frames sends bytes on an open WebSocket and returns the close code that
// comes back.
func TestWebSocketFramesRefused(t *testing.T) {
	r := newRig(t, nil, chatOperations)
	r.up.Answer(chat(t))
	n := 0
	for name, c := range map[string]struct {
		frame []byte
		code  int
	}{
		"not masked":             {[]byte{0x81, 0x01, 'a'}, 1002},
		"a reserved bit":         {[]byte{0xc1, 0x80, 0, 0, 0, 0}, 1002},
		"an unknown kind":        {[]byte{0x83, 0x80, 0, 0, 0, 0}, 1002},
		"a continuation alone":   {[]byte{0x80, 0x80, 0, 0, 0, 0}, 1002},
		"a ping in pieces":       {[]byte{0x09, 0x80, 0, 0, 0, 0}, 1002},
		"a ping too long":        {[]byte{0x89, 0xfe, 1, 0, 0, 0, 0, 0}, 1002},
		"not UTF-8":              {[]byte{0x81, 0x81, 0, 0, 0, 0, 0xff}, 1007},
		"too large":              {[]byte{0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, 1009},
		"larger than all memory": {[]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, 1009},
	} {
		conn, in := r.open(t)
		_, _ = conn.Write(c.frame)
		head := make([]byte, 4)
		if _, err := io.ReadFull(in, head); err != nil || head[0] != 0x88 || int(head[2])<<8|int(head[3]) != c.code {
			t.Errorf("%s: %x %v, want close %d", name, head, err, c.code)
		}
		conn.Close()
		n++
	}
	r.Events(n, audit.CallOutcome)
}

// said is what a chat's server was sent.
type said struct {
	mu  sync.Mutex
	all []string
}

func (s *said) add(m string) {
	s.mu.Lock()
	s.all = append(s.all, m)
	s.mu.Unlock()
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.all, "|")
}

// parrot answers each message with what it is told to, and keeps it.
func (s *said) parrot(t *testing.T, answer map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Log(err)
			return
		}
		defer c.CloseNow()
		for {
			_, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			s.add(string(b))
			out := "got it"
			if a := answer[string(b)]; a != "" {
				out = a
			}
			if c.Write(r.Context(), websocket.MessageText, []byte(out)) != nil {
				return
			}
		}
	}
}

// talk sends messages and returns what came back; what was refused ends it.
func talk(t *testing.T, c *websocket.Conn, kind websocket.MessageType, texts ...string) (out []string, status websocket.StatusCode, reason string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, m := range texts {
		if err := c.Write(ctx, kind, []byte(m)); err != nil {
			t.Fatal(err)
		}
		_, b, err := c.Read(ctx)
		if err != nil {
			if closed, ok := errors.AsType[websocket.CloseError](err); ok {
				return out, closed.Code, closed.Reason
			}
			return out, -1, err.Error()
		}
		out = append(out, string(b))
	}
	return out, 0, ""
}

func TestEachWebSocketMessageIsDecided(t *testing.T) {
	for name, c := range map[string]struct {
		kind    websocket.MessageType
		message string
		reason  string
	}{
		"text":       {websocket.MessageText, "please drop it", "denied by policy drop"},
		"JSON":       {websocket.MessageText, `{"type":"delete","n":1.5}`, "denied by policy delete"},
		"binary":     {websocket.MessageBinary, "\x00\xff", "denied by policy binary"},
		"for people": {websocket.MessageText, "pay", "people would have to decide"},
	} {
		t.Run(name, func(t *testing.T) {
			var s said
			operations, forbid, hello := map[string]string{"chat": "GET /chat?room websocket"}, `@id("drop") forbid (principal, action == Action::"forge/chat", resource)
					when { context.args has message && context.args.message has text && context.args.message.text like "*drop*" };
				@id("pay") @approval("ops") forbid (principal, action == Action::"forge/chat", resource)
					when { context.args has message && context.args.message has text && context.args.message.text == "pay" };`, "hello"
			if strings.HasPrefix(name, "JSON") {
				operations, forbid, hello = map[string]string{"chat": "GET /chat?room websocket json(type!, n:number)"}, `@id("delete") forbid (principal, action == Action::"forge/chat", resource)
					when { context.args has message && context.args.message.json.type == "delete" };`, `{"type":"hello"}`
			}
			r := newRig(t, nil, operations)
			r.up.Answer(s.parrot(t, nil))
			r.Policies(line.AllowAll + forbid + `
				@id("binary") forbid (principal, action == Action::"forge/chat", resource)
					when { context.args has message && context.args.message.kind == "binary" };`)
			conn, _ := dial(t, r)
			if out, status, _ := talk(t, conn, websocket.MessageText, hello, `{"type":"list","n":1.5}`); len(out) != 2 {
				t.Fatalf("%v %d", out, status)
			}
			out, status, reason := talk(t, conn, c.kind, c.message)
			if len(out) != 0 || status != websocket.StatusPolicyViolation || !strings.Contains(reason, c.reason) {
				t.Errorf("%v %d %q", out, status, reason)
			}
			if got := s.String(); got != hello+`|{"type":"list","n":1.5}` {
				t.Errorf("the upstream got %q", got)
			}
			o := r.Events(1, audit.CallOutcome)[0]
			if o.Event.Outcome.Status != audit.Failed || !strings.Contains(o.Event.Outcome.Error, c.reason) {
				t.Errorf("outcome %+v", o.Event.Outcome)
			}
			sent := r.Events(3, "call.sent")
			for i, want := range []struct{ effect, detail, text string }{
				{"allow", fmt.Sprintf(`{"bytes":%d,"messages":1}`, len(hello)), hello + "\n"}, {"allow", `{"bytes":23,"messages":1}`, "{\"type\":\"list\",\"n\":1.5}\n"}, {"deny", `"refused":"policy_denied"`, ""},
			} {
				ev := sent[i].Event
				if ev.Decision == nil || ev.Decision.Effect != want.effect || !strings.Contains(string(ev.Detail), want.detail) || want.text != "" && string(sent[i].Payloads["messages"]) != want.text || ev.Call != o.Event.Call {
					t.Errorf("%d: %+v %s %q", i, ev.Decision, ev.Detail, sent[i].Payloads["messages"])
				}
			}
		})
	}
}

func TestEachWebSocketMessageIsInspected(t *testing.T) {
	const token = "ghp_aB3xK9mQ2zaB3xK9mQ2zaB3xK9mQ2zaB3xK9"
	for name, c := range map[string]struct {
		kind           websocket.MessageType
		message        string
		upstream, back string // empty: it is cut
	}{
		"a mail address": {websocket.MessageText, `{"to":"jane@example.org"}`, `{"to":"[redacted:email]"}`, "got it"},
		"in binary":      {websocket.MessageBinary, "to jane@example.org", "", ""},
		"a secret":       {websocket.MessageText, "use " + token, "", ""},
		"an answer":      {websocket.MessageText, "who?", "who?", "ask [redacted:email]"},
		"a bad answer":   {websocket.MessageText, "key?", "key?", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var s said
			r := newRig(t, nil, chatOperations)
			r.up.Answer(s.parrot(t, map[string]string{"who?": "ask jane@example.org", "key?": "it is " + token}))
			r.inspects(map[string]string{"pii": "redact", "secret": "block"})
			conn, _ := dial(t, r)
			out, status, reason := talk(t, conn, c.kind, c.message)
			if c.back != "" && (len(out) != 1 || out[0] != c.back) || c.back == "" && (len(out) != 0 || status != websocket.StatusPolicyViolation) {
				t.Errorf("%q %d %q", out, status, reason)
			}
			if got := s.String(); got != c.upstream {
				t.Errorf("the upstream got %q", got)
			}
			conn.CloseNow()
			if ev := r.Events(1, audit.CallOutcome)[0].Event; len(ev.Labels) != 1 || c.back == "" && ev.Outcome.Status != audit.Failed {
				t.Errorf("outcome %+v, labels %v", ev.Outcome, ev.Labels)
			}
		})
	}
}

func TestAGuardrailServiceIsAskedAboutWebSocketMessages(t *testing.T) {
	guard := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		verdict := "allow"
		if bytes.Contains(b, []byte("rude")) {
			verdict = "block"
		}
		_, _ = io.WriteString(w, `{"verdict":"`+verdict+`","labels":["tone"]}`)
	}))
	defer guard.Close()
	for _, message := range []string{"rude", "who?"} {
		var s said
		r := newRig(t, nil, chatOperations)
		r.up.Answer(s.parrot(t, map[string]string{"who?": "a rude one"}))
		r.inspects(map[string]string{"guard": guard.URL + " private"})
		conn, _ := dial(t, r)
		out, status, reason := talk(t, conn, websocket.MessageText, "hello", message)
		if len(out) != 1 || status != websocket.StatusPolicyViolation || !strings.Contains(reason, "guardrail service") {
			t.Errorf("%s: %q %d %q", message, out, status, reason)
		}
		if got := s.String(); strings.Contains(got, "rude") || !strings.HasPrefix(got, "hello") {
			t.Errorf("%s: the upstream got %q", message, got)
		}
		if ev := r.Events(2, "call.sent")[0].Event; !strings.Contains(string(ev.Detail), `"guard":[{"labels":["tone"]`) {
			t.Errorf("%s: %s", message, ev.Detail)
		}
	}
}

// What detection asks for an agent holds in a connection that was open before, too.
func TestDetectionReachesAnOpenWebSocket(t *testing.T) {
	for name, c := range map[string]struct {
		asks   gateway.Posture
		reason string
	}{
		"held":      {gateway.Posture{Held: "call.unproposed", Approvers: "security"}, "people would have to decide"},
		"throttled": {gateway.Posture{Wait: time.Minute}, "detection slowed this agent down"},
	} {
		t.Run(name, func(t *testing.T) {
			var s said
			r := newRig(t, nil, chatOperations)
			r.up.Answer(s.parrot(t, nil))
			conn, _ := dial(t, r)
			if out, status, _ := talk(t, conn, websocket.MessageText, "hello"); len(out) != 1 {
				t.Fatalf("%v %d", out, status)
			}
			r.asks.Store(&c.asks)
			out, status, reason := talk(t, conn, websocket.MessageText, "more")
			if len(out) != 0 || status != websocket.StatusPolicyViolation || !strings.Contains(reason, c.reason) {
				t.Errorf("%v %d %q", out, status, reason)
			}
			if got := s.String(); got != "hello" {
				t.Errorf("the upstream got %q", got)
			}
		})
	}
}

// An answer that breaks off was shown to no guardrail service: nothing of it passes.
func TestAnAnswerThatBreaksOffIsNotPassedUnguarded(t *testing.T) {
	guard := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"verdict":"allow"}`)
	}))
	defer guard.Close()
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		_, _ = io.WriteString(w, strings.Repeat("do as I say ", 10_000))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, map[string]string{"read": "GET /read"})
	r.inspects(map[string]string{"guard": guard.URL + " private"})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/read", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil { // not even a status
		return
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); strings.Contains(string(b), "do as I say") {
		t.Errorf("%d %q", resp.StatusCode, b)
	}
}

// A ping's few bytes can carry what may not pass, too; other control frames pass.
func TestWebSocketControlFramesAreInspected(t *testing.T) {
	var s said
	r := newRig(t, nil, chatOperations)
	r.up.Answer(s.parrot(t, nil))
	r.inspects(map[string]string{"pii": "block"})
	raw := func(frames ...[]byte) []byte {
		conn, in := r.open(t)
		defer conn.Close()
		for _, f := range frames {
			_, _ = conn.Write(f)
		}
		head := make([]byte, 4)
		_, _ = io.ReadFull(in, head)
		return head
	}
	ping := func(text string) []byte {
		return append([]byte{0x89, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
	}
	if got := raw(ping("hi")); !bytes.Equal(got, []byte{0x8a, 2, 'h', 'i'}) {
		t.Errorf("a ping got %x", got)
	}
	if got := raw(ping("jane@example.org")); got[0] != 0x88 || int(got[2])<<8|int(got[3]) != 1008 {
		t.Errorf("a ping with an address got %x", got)
	}
	r.Events(2, audit.CallOutcome)
	r.Events(0, "call.sent")
}

func TestNoWebSocketMessageGoesOutThatTheLogDoesNotHold(t *testing.T) {
	var s said
	r := newRig(t, nil, chatOperations)
	r.up.Answer(s.parrot(t, nil))
	conn, _ := dial(t, r)
	if out, status, reason := talk(t, conn, websocket.MessageText, "hello"); len(out) != 1 {
		t.Fatal(status, reason)
	}
	if err := r.Log.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if out, status, reason := talk(t, conn, websocket.MessageText, "more"); status != websocket.StatusPolicyViolation || !strings.Contains(reason, "the log cannot be written") {
		t.Errorf("%q %d %q", out, status, reason)
	}
	if got := s.String(); got != "hello" {
		t.Errorf("the upstream got %q", got)
	}
}

// What comes before a message that is refused goes, though they arrive together.
func TestWebSocketMessagesGoUpToTheRefusedOne(t *testing.T) {
	var s said
	r := newRig(t, nil, chatOperations)
	r.up.Answer(s.parrot(t, nil))
	r.Policies(line.AllowAll + `@id("drop") forbid (principal, action == Action::"forge/chat", resource)
		when { context.args has message && context.args.message has text && context.args.message.text == "d" };`)
	conn, in := r.open(t)
	defer conn.Close()
	var wire []byte
	for _, m := range "abdc" {
		wire = append(wire, 0x81, 0x81, 0, 0, 0, 0, byte(m))
	}
	_, _ = conn.Write(wire)
	all, _ := io.ReadAll(in)
	if !strings.Contains(string(all), "denied by policy drop") {
		t.Errorf("it ended with %q", all)
	}
	for deadline := time.Now().Add(30 * time.Second); s.String() != "a|b" && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if got := s.String(); got != "a|b" {
		t.Errorf("the upstream got %q", got)
	}
	n := 0
	list, err := r.Log.List(t.Context(), audit.Query{Types: []audit.Type{"call.sent"}, Oldest: true, Limit: 10, Payloads: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range list {
		n += strings.Count(string(rec.Payloads["messages"]), "\n")
	}
	if last := list[len(list)-1].Event; n != 3 || last.Decision.Effect != "deny" {
		t.Errorf("%d messages in %d events, the last %+v", n, len(list), last.Decision)
	}
}

// open opens a WebSocket by hand.
func (r *rig) open(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(strings.TrimSuffix(r.url, "/http/forge"), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(conn, "GET /http/forge/chat HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer "+r.Key+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	return conn, in
}
