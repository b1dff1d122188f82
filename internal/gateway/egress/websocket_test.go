package egress_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/countersign/countersign/internal/audit"
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
	host := strings.TrimPrefix(strings.TrimSuffix(r.url, "/http/forge"), "http://")
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
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, "GET /http/forge/chat HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer "+r.Key+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
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
