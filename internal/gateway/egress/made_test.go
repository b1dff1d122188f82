package egress_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/egress"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
)

// make makes a call as an undo does.
func (r *rig) make(tool, args string) (*httptest.ResponseRecorder, error) {
	r.t.Helper()
	a, ok := r.Identity.Agent("invoice-checker")
	if !ok {
		r.t.Fatal("no agent")
	}
	pat, ok := r.Identity.User("pat")
	if !ok {
		r.t.Fatal("no pat")
	}
	w := httptest.NewRecorder()
	front := egress.New(egress.Options{Gateway: r.Gateway, Registry: r.Connections})
	err := front.Make(r.t.Context(), w, &gateway.Resumed{Call: id.New(id.Call), Resumed: identity.Resumed{
		Agent: a.Name, AgentID: a.ID, Credential: "und_1", Kind: "undo", OnBehalfOf: []audit.Actor{audit.Person(pat.ID, pat.Name)},
	}}, "forge", tool, []byte(args))
	return w, err
}

// What is made of arguments is treated as a client's request: no header of it
// reaches the upstream that a client's would not, even where an operation
// declares one by that name.
func TestMadeRequestsAreAClients(t *testing.T) {
	var seen atomic.Pointer[http.Request]
	own := []string{"Authorization", "Host", "Connection", "Transfer-Encoding", "Te", "Proxy-Authorization", "Keep-Alive", "Cookie", "X-Api-Key", "X-Forwarded-For", "Forwarded", "Expect", "Content-Length", "Upgrade"}
	r := newRig(t, func(_ http.ResponseWriter, q *http.Request) { seen.Store(q) }, map[string]string{
		"take_back": "DELETE /things/{id} header(X-Reason, " + strings.Join(own, ", ") + ")",
		"override":  "POST /things/{id} header(X-HTTP-Method-Override, Connection, Upgrade)",
	})
	var headers strings.Builder
	for _, name := range own {
		value := "smuggled"
		if name == "Connection" {
			value = "close, X-Nothing"
		}
		headers.WriteString(`,"` + name + `":"` + value + `"`)
	}
	w, err := r.make("take_back", `{"path":{"id":"7"},"header":{"X-Reason":"why"`+headers.String()+`}}`)
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("%v %d %s", err, w.Code, w.Body)
	}
	q := seen.Load()
	if q.Header.Get("X-Reason") != "why" || q.Header.Get("Authorization") == "" || q.Method != http.MethodDelete || q.URL.Path != "/things/7" {
		t.Errorf("%s %s %v", q.Method, q.URL, q.Header)
	}
	if !strings.HasSuffix(r.up.URL, q.Host) || len(q.TransferEncoding) > 0 || q.Close {
		t.Errorf("%q %v %v", q.Host, q.TransferEncoding, q.Close)
	}
	for name, values := range q.Header {
		if slices.Contains(values, "smuggled") {
			t.Errorf("%s reached the upstream", name)
		}
	}
	if args := r.lastArgs(1); !strings.Contains(args, `"X-Reason":"why"`) {
		t.Errorf("policy saw %s", args)
	}
	seen.Store(nil)
	for _, header := range []string{`{"X-HTTP-Method-Override":"DELETE"}`, `{"Connection":"Upgrade","Upgrade":"websocket"}`} {
		if w, err := r.make("override", `{"path":{"id":"7"},"header":`+header+`}`); err != nil || w.Code < 400 {
			t.Errorf("%s: %v %d", header, err, w.Code)
		}
	}
	if seen.Load() != nil {
		t.Error("it reached the upstream")
	}
}

// A value that makes the path of another operation, or of none, calls neither; and
// what the operation does not declare is refused before anything is recorded.
func TestMadeRequestsKeepToTheirOperation(t *testing.T) {
	var seen atomic.Int64
	r := newRig(t, func(http.ResponseWriter, *http.Request) { seen.Add(1) }, map[string]string{
		"take_back": "DELETE /things/{id}?force:boolean",
		"take_all":  "DELETE /things/all",
		"put":       "PUT /things/{id} json(n!)",
	})
	for tool, list := range map[string][]string{
		"take_back": {
			`{"path":{"id":"all"}}`, `{"path":{"id":"ALL"}}`, `{"path":{"id":"a/b"}}`, `{"path":{"id":"%2e%2e"}}`, `{"path":{"id":"a\\b"}}`, `{"path":{"id":"a\u0000"}}`,
			`{"path":{"id":"1"},"header":{"X-Countersign-Subject":"ann"}}`,
		},
		"nothing": {`{}`},
	} {
		for _, args := range list {
			if _, err := r.make(tool, args); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s %s: %v", tool, args, err)
			}
		}
	}
	for tool, list := range map[string][]string{ // what the front refuses of any client
		"take_back": {`{"path":{"id":"1"},"query":{"other":1}}`, `{"path":{"id":"1"},"query":{"force":"maybe"}}`, `{"path":{"id":"1"},"query":{"force":[true,false]}}`},
		"put":       {`{"path":{"id":"1"}}`, `{"path":{"id":"1"},"body":"` + strings.Repeat("x", 9<<20) + `"}`},
	} {
		for _, args := range list {
			if w, err := r.make(tool, args); err != nil || w.Code < 400 {
				t.Errorf("%s %.80s: %v %d", tool, args, err, w.Code)
			}
		}
	}
	if w, err := r.make("take_back", `{"path":{"id":"1"},"query":{"force":true}}`); err != nil || w.Code != http.StatusOK || seen.Load() != 1 {
		t.Errorf("%v %d, %d reached the upstream", err, w.Code, seen.Load())
	}
}
