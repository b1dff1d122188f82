package egress_test

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/egress"
	"github.com/countersign/countersign/internal/pseudonyms"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

// getEnv makes this program one that gets a URL and knows nothing else.
const getEnv = "EGRESS_TEST_GET"

func TestMain(m *testing.M) {
	if target := os.Getenv(getEnv); target != "" {
		os.Exit(get(target))
	}
	cleanup := trustOurselves()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) { cleanup(); os.Exit(code) }))
}

func get(target string) int {
	resp, err := http.Get(target)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer resp.Body.Close()
	_, _ = io.Copy(os.Stdout, resp.Body)
	return 0
}

// rig is a line with the front and the API "forge" behind it.
type rig struct {
	*line.Line
	t    testing.TB
	up   *upstream.Server
	url  string // of the front
	conn connections.Connection
	asks atomic.Pointer[gateway.Posture] // what detection asks for the agent's calls
}

// newRig serves operations (name: line) of an API that answers with h.
func newRig(t testing.TB, h http.HandlerFunc, operations map[string]string) *rig {
	return newRigOn(t, storagetest.Open(t, storagetest.SQLite(t)), h, operations)
}

func newRigOn(t testing.TB, db *storage.DB, h http.HandlerFunc, operations map[string]string) *rig {
	t.Helper()
	r := &rig{t: t, up: upstream.Start(t, h)}
	r.serve(db, r.up.URL, "", operations)
	return r
}

func (r *rig) serve(db *storage.DB, base, dialect string, operations map[string]string) {
	t := r.t
	t.Helper()
	r.Line = line.Start(t, db, line.Options{Tune: func(l *line.Line, o *gateway.Options) {
		stand, err := pseudonyms.New(l.DB, l.Log, pseudonyms.Options{Derive: l.Secrets.Derive})
		if err != nil {
			t.Fatal(err)
		}
		o.Pseudonyms = stand
		o.Posture = func(context.Context, string) (p gateway.Posture, _ error) {
			if asks := r.asks.Load(); asks != nil {
				p = *asks
			}
			return p, nil
		}
	}})
	auth := connections.AuthBearer
	if dialect == connections.Git {
		auth = connections.AuthHeader + "X-Forge-Token"
	}
	r.conn = r.Register(connections.Connection{Name: "forge", Kind: connections.HTTP, Dialect: dialect, URL: base, Owner: "pat", Secret: "forge-key", Auth: auth, AllowPrivate: true})
	if operations != nil {
		r.operations(operations)
	}
	r.Policies(line.AllowAll)
	r.front()
}

// front serves the line's front.
func (r *rig) front() {
	r.t.Helper()
	front := egress.New(egress.Options{Gateway: r.Gateway, Registry: r.Connections, MaxBody: 64 << 10, ReadTimeout: 5 * time.Second})
	s := httptest.NewServer(front)
	r.url = s.URL + "/http/forge"
	r.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
}

// operations lists the operations of the connection.
func (r *rig) operations(lines map[string]string) {
	r.t.Helper()
	err := r.Log.Change(r.t.Context(), func(tx *audit.Tx) error {
		_, err := r.Connections.DeclareTx(r.t.Context(), tx, line.By, line.Reason, "forge", lines, nil)
		return err
	})
	if err == nil {
		err = r.Watch.Poll(r.t.Context())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
	code   string // of a problem
	detail string
}

// ask makes a request; header is name, value, name, value.
func (r *rig) ask(method, path string, body io.Reader, header ...string) answer {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.Key)
	for i := 0; i < len(header); i += 2 {
		req.Header[http.CanonicalHeaderKey(header[i])] = append(req.Header[http.CanonicalHeaderKey(header[i])], header[i+1])
	}
	return r.do(req)
}

func (r *rig) do(req *http.Request) answer {
	r.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return answer{detail: err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(b)}
	if err != nil {
		a.detail = err.Error()
	}
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		var p struct {
			Type   string `json:"type"`
			Title  string `json:"title"`
			Status int    `json:"status"`
			Code   string `json:"code"`
			Detail string `json:"detail"`
		}
		if err := json.Unmarshal(b, &p); err != nil || p.Status != a.status || p.Type == "" || p.Title == "" {
			r.t.Errorf("not a problem: %s (%v)", b, err)
		}
		a.code, a.detail = p.Code, p.Detail
	}
	return a
}

// args returns the arguments of the only call that was made so far.
func (r *rig) lastArgs(n int) string {
	r.t.Helper()
	return string(r.Events(n, audit.CallIntent)[n-1].Payloads["arguments"])
}
func text(s string) io.Reader { return strings.NewReader(s) }

// echo answers with what was received.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, r.Method+" "+r.URL.EscapedPath()+"?"+r.URL.RawQuery)
}

func bytesOf(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), n/16) }
