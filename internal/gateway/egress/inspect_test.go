package egress_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
)

// inspects sets what the rig's connection does about what is found.
func (r *rig) inspects(actions map[string]string) {
	r.t.Helper()
	c := r.conn
	c.Inspect = actions
	if _, err := r.Connections.Register(r.t.Context(), audit.System, "test", c); err != nil {
		r.t.Fatal(err)
	}
	if err := r.Watch.Poll(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func TestBodiesAreInspected(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", q.Header.Get("X-Answer"))
		_, _ = io.WriteString(w, "of jane@example.org\x01")
	}, petOperations)
	r.inspects(map[string]string{"pii": "redact"})
	json := []string{"Content-Type", "application/json"}
	if a := r.ask("POST", "/pets", strings.NewReader(`{"name":"call +49 30 1234567","age":3}`), append(json, "X-Answer", "text/plain")...); a.status != 200 || a.body != "of [redacted:email]\x01" {
		t.Errorf("%d %s", a.status, a.body)
	}
	sent := func() string { all := r.up.Requests(); return string(all[len(all)-1].Body) }
	if got, want := sent(), `{"name":"call [redacted:phone]","age":3}`; got != want {
		t.Errorf("the upstream got %s", got)
	}
	if args, want := r.lastArgs(1), `{"content_type":"application/json","content_length":40,"body":{"name":"call [redacted:phone]","age":3}}`; args != want {
		t.Errorf("policy saw %s", args)
	}
	if ev := r.Events(1, audit.CallIntent)[0].Event; !slices.Contains(ev.Labels, "pii") {
		t.Errorf("labels %v", ev.Labels)
	}
	for name, c := range map[string]struct {
		method, path, body string
		header             []string
	}{
		"in the query":        {"GET", "/pets?tag=jane@example.org", "", nil},
		"in a binary body":    {"PUT", "/raw/x", "\x00 jane@example.org \xff", []string{"Content-Type", "application/octet-stream"}},
		"in a binary answer":  {"POST", "/pets", `{"name":"x"}`, append(json, "X-Answer", "image/png")},
		"in a form, in parts": {"POST", "/upload", "--b\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\njane@example.org\r\n--b--\r\n", []string{"Content-Type", "multipart/form-data; boundary=b"}},
	} {
		if a := r.ask(c.method, c.path, strings.NewReader(c.body), c.header...); a.status != 403 || a.code != "inspection_blocked" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := r.ask("POST", "/form", strings.NewReader("name=jane%40example.org&tags=a"), "Content-Type", "application/x-www-form-urlencoded", "X-Answer", "text/plain"); a.status != 200 || sent() != "name=[redacted:email]&tags=a" {
		t.Errorf("a form: %d %s, the upstream got %s", a.status, a.body, sent())
	}
}

func TestAStreamedUploadIsInspected(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, q *http.Request) { _, _ = io.Copy(io.Discard, q.Body) }, petOperations)
	r.inspects(map[string]string{"secret": "block"})
	long := strings.Repeat("no secret here, ", 20<<10)
	if a := r.ask("PUT", "/raw/x", strings.NewReader(long), "Content-Type", "text/plain"); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	secret := "ghp_" + strings.Repeat("aB3xK9mQ2z", 4)[:36]
	if a := r.ask("PUT", "/raw/x", strings.NewReader(long+secret+long), "Content-Type", "text/plain"); a.status != 403 || a.code != "inspection_blocked" {
		t.Errorf("%d %s", a.status, a.body)
	}
}
