package mcp_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
)

// byHand sends bytes as they are and returns the answer.
func (h *house) byHand(request string, closeWrite bool) reply {
	h.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	h.must(err)
	defer conn.Close()
	h.must(conn.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err = io.WriteString(conn, request)
	h.must(err)
	if closeWrite {
		h.must(conn.(*net.TCPConn).CloseWrite())
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	h.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	h.must(err)
	return reply{resp.StatusCode, resp.Header, string(b)}
}

func TestLyingAndSlowBodies(t *testing.T) {
	for _, path := range []string{"/mcp/srv", "/mcp"} {
		t.Run(path, func(t *testing.T) {
			h := readWithin(t, 300*time.Millisecond)
			u := newUpstream(t, twoTools)
			key := h.agent("bot")
			h.connect(connections.Connection{Name: "srv", URL: u.URL})
			h.allow("bot", "srv")
			before := len(u.received())
			head := "POST " + path + " HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nAuthorization: Bearer " + key + "\r\n"
			begun := `{"jsonrpc":"2.0","id":1,"method":"ping"`
			for _, c := range []struct {
				name, request string
				end           bool
				code          string
			}{
				{"slow", head + "Content-Length: 100\r\n\r\n" + begun, false, "body_too_slow"},
				{"slow, in chunks", head + "Transfer-Encoding: chunked\r\n\r\n27\r\n" + begun, false, "body_too_slow"},
				{"shorter than announced", head + "Content-Length: 100\r\n\r\n" + begun + "}", true, "bad_body"},
				{"a broken chunk", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", false, "bad_body"},
			} {
				r := h.byHand(c.request, c.end)
				if r.status != 400 || !strings.Contains(r.body, c.code) || !strings.Contains(r.body, `"jsonrpc":"2.0"`) || !strings.Contains(r.body, "evt_") {
					t.Errorf("%s: %d %s", c.name, r.status, r.body)
				}
			}
			r := h.byHand("POST "+path+" HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n", false)
			if r.status != 401 {
				t.Errorf("a body of nobody's: %d %s", r.status, r.body)
			}
			h.events(audit.CallRefused, 4)
			if got := u.received()[before:]; len(got) != 0 {
				t.Errorf("reached the upstream: %q", got)
			}
		})
	}
}

func TestSmuggledFramingReachesNobody(t *testing.T) {
	h, u, key := scripted(t)
	h.allow("bot", "srv")
	before := len(u.received())
	head := "POST /mcp/srv HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nAuthorization: Bearer " + key + "\r\n"
	for name, rest := range map[string]string{
		"two lengths":            "Content-Length: 13\r\nContent-Length: 14\r\n\r\n{}",
		"a space before a colon": "X-A : b\r\nContent-Length: 2\r\n\r\n{}",
		"a strange encoding":     "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"a folded header":        "X-A: b\r\n c\x00\r\nContent-Length: 2\r\n\r\n{}",
		"two credentials":        "Authorization: Bearer csk_other\r\nContent-Length: 2\r\n\r\n{}",
		"two sessions":           "Mcp-Session-Id: a\r\nMcp-Session-Id: b\r\nContent-Length: 40\r\n\r\n" + `{"jsonrpc":"2.0","id":1,"method":"ping"}`,
	} {
		if r := h.byHand(head+rest, false); r.status < 400 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if got := u.received()[before:]; len(got) != 0 {
		t.Errorf("reached the upstream: %q", got)
	}
}

func TestMessagesThatCannotBeUnderstood(t *testing.T) {
	h, u, key := scripted(t)
	h.allow("bot", "srv")
	before := len(u.received())
	bad := map[string]string{
		"deep":            `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"id":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}}}`,
		"invalid UTF-8":   "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"read\",\"arguments\":{\"id\":\"\xff\"}}}",
		"duplicate":       `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"id":"a","id":"b"}}}`,
		"deep duplicate":  `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"id":"a","x":[{"y":1,"y":2}]}}}`,
		"case":            `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"id":"a","ID":"b"}}}`,
		"two documents":   `{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":2,"method":"ping"}`,
		"an empty batch":  `[]`,
		"a string":        `"ping"`,
		"version 1":       `{"id":1,"method":"ping"}`,
		"id true":         `{"jsonrpc":"2.0","id":true,"method":"ping"}`,
		"id array":        `{"jsonrpc":"2.0","id":[1],"method":"ping"}`,
		"id too long":     `{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 1100) + `","method":"ping"}`,
		"method a number": `{"jsonrpc":"2.0","id":1,"method":7}`,
		"params an array": `{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}`,
		"both":            `{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`,
		"neither":         `{"jsonrpc":"2.0","id":1}`,
	}
	for _, path := range []string{"/mcp/srv", "/mcp"} {
		for name, body := range bad {
			r := h.raw(key, path, body)
			if r.status != 400 || !strings.Contains(r.body, `"jsonrpc":"2.0"`) || !strings.Contains(r.body, `"error"`) {
				t.Errorf("%s, %s: %d %.300s", path, name, r.status, r.body)
			}
		}
	}
	h.events(audit.CallRefused, 2*len(bad))
	if got := u.received()[before:]; len(got) != 0 {
		t.Errorf("reached the upstream: %q", got)
	}
}

// A server that takes the call and says nothing more is given up after its
// connection's time.
func TestAnUpstreamThatHangs(t *testing.T) {
	h := build(t)
	u := newUpstream(t, twoTools)
	key := h.agent("bot")
	h.connect(connections.Connection{Name: "srv", URL: u.URL, Timeout: time.Second})
	h.allow("bot", "srv")
	u.on(func(_ http.ResponseWriter, r *http.Request, body string) bool {
		if !strings.Contains(body, "tools/call") {
			return false
		}
		<-r.Context().Done()
		return true
	})
	r := h.raw(key, "/mcp/srv", call("1", "read", `{}`))
	if r.status != 200 || !strings.Contains(r.body, "upstream_timeout") || !strings.Contains(r.body, `"id":1`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	h.ended(audit.Broken)
}

// A stream that never ends passes for as long as the client listens, and ends
// with it.
func TestAStreamThatNeverEnds(t *testing.T) {
	h, u, key := scripted(t)
	h.allow("bot", "srv")
	u.on(func(w http.ResponseWriter, r *http.Request, body string) bool {
		if !strings.Contains(body, "tools/call") {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for n := 0; r.Context().Err() == nil; n++ {
			if _, err := fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":%d}}\n\n", n); err != nil {
				break
			}
			w.(http.Flusher).Flush()
		}
		return true
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/mcp/srv", strings.NewReader(call("1", "read", `{}`)))
	h.must(err)
	req.Header = http.Header{"Authorization": {"Bearer " + key}, "Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	resp, err := http.DefaultClient.Do(req)
	h.must(err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for n := 0; n < 2000; n++ {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
	}
	cancel()
	h.ended(audit.Cancelled)
}

// ended waits for the outcome of the newest intent.
func (h *house) ended(want string) {
	h.t.Helper()
	intents := h.events(audit.CallIntent, 1)
	last := intents[len(intents)-1]
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		for _, ev := range h.events(audit.CallOutcome, 1) {
			if ev.Call == last.Call {
				if ev.Outcome.Status != want {
					h.t.Errorf("outcome %+v, want %s", ev.Outcome, want)
				}
				return
			}
		}
		if time.Now().After(deadline) {
			h.t.Fatal("no outcome")
		}
	}
}
