package server_test

import (
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// shop is an HTTP API whose orders can be cancelled. It remembers what it was
// asked, and a test can act at each step of a cancellation.
type shop struct {
	stage
	mu        sync.Mutex
	orders    map[string]string // note to the call that ordered
	cancelled map[string][]string
}

// order is what is sent to order something; the shop names it by its note.
type order struct {
	Note string `json:"note"`
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return // it did not arrive whole: nothing would have been done
	}
	w.Header().Set("Content-Type", "application/json")
	id := strings.TrimPrefix(r.URL.Path, "/orders/")
	switch r.Method {
	case http.MethodPost:
		var o order
		_ = json.Unmarshal(b, &o) // the tests' own
		s.mu.Lock()
		s.orders[o.Note] = r.Header.Get("X-Countersign-Call")
		s.mu.Unlock()
		fmt.Fprintf(w, `{"order":{"id":%q}}`, o.Note)
	case http.MethodGet:
		fmt.Fprintf(w, `{"cancelled":%v}`, len(s.cancels(id)) > 0)
	default:
		s.step("connected")
		s.mu.Lock()
		s.cancelled[id] = append(s.cancelled[id], strings.Join([]string{r.URL.RequestURI(), r.Header.Get("X-Reason"), string(b), r.Header.Get("X-Countersign-Call")}, " "))
		s.mu.Unlock()
		s.step("received")
		fmt.Fprint(w, `{}`)
	}
}

// cancels returns how an order was cancelled, each time.
func (s *shop) cancels(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.cancelled[id]...)
}

const shopDocument = `{"openapi":"3.0.0","info":{"title":"shop","version":"1"},"paths":{
"/orders":{"post":{"operationId":"order","requestBody":{"required":true,"content":{"application/json":{"schema":{"type":"object"}}}},"responses":{"201":{"description":"ok"}}}},
"/blind":{"post":{"operationId":"blind","requestBody":{"required":true,"content":{"application/json":{"schema":{"type":"object"}}}},"responses":{"201":{"description":"ok"}}}},
"/orders/all":{"delete":{"operationId":"cancel_all","responses":{"200":{"description":"ok"}}}},
"/orders/{id}":{"parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"string"}}],
"get":{"operationId":"look","responses":{"200":{"description":"ok"}}},
"delete":{"operationId":"cancel","parameters":[{"name":"why","in":"query","schema":{"type":"string"}},{"name":"X-Reason","in":"header","schema":{"type":"string"}}],
"requestBody":{"content":{"application/json":{"schema":{"type":"object","properties":{"of":{"type":"string"}}}}}},"responses":{"200":{"description":"ok"}}}}}}`

// newShop puts a shop behind a server. What is ordered blindly is undone by an
// operation that no read can tell about.
func newShop(t *testing.T, p *process) *shop {
	t.Helper()
	s := &shop{orders: map[string]string{}, cancelled: map[string][]string{}}
	up := httptest.NewServer(s)
	t.Cleanup(up.Close)
	p.api(t, "PUT", "/connections/shop", map[string]any{"kind": "http", "owner": "olga", "url": up.URL, "allow_private": true}, nil)
	admin := client.New(p.url, p.token).WithReason("test")
	if _, err := admin.ImportOpenAPI(t.Context(), "shop", shopDocument, nil); err != nil {
		t.Fatal(err)
	}
	p.grant(t, "shop")
	u := client.ToolUndo{Tool: "shop/cancel", Args: map[string]string{"path.id": "result:/order/id", "query.why": "call:/body/note", "header.X-Reason": `="undone"`, "body.of": "call:/body/note"}}
	if _, err := admin.SetReferences(t.Context(), "shop", "blind", client.References{Undo: u}); err != nil {
		t.Fatal(err)
	}
	u.Check = client.UndoCheck{Tool: "shop/look", Args: map[string]string{"path.id": "result:/order/id"}, Done: map[string]string{"/cancelled": "true"}}
	if _, err := admin.SetReferences(t.Context(), "shop", "order", client.References{Undo: u}); err != nil {
		t.Fatal(err)
	}
	return s
}

// ordered orders something and returns what to undo, when the log knows how the
// call ended, and the plan.
func (s *shop) ordered(t *testing.T, p *process, key, path, note string) (client.UndoWhat, client.UndoPlan) {
	t.Helper()
	if status, body := p.as(t, key, "POST", "/http/shop"+path, `{"note":"`+note+`"}`); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	s.mu.Lock()
	what := client.UndoWhat{Call: s.orders[note]}
	s.mu.Unlock()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		plan, err := client.New(p.url, p.token).PlanUndo(t.Context(), what)
		if err == nil && plan.Steps[0].State == "planned" {
			return what, plan
		}
		if time.Now().After(end) {
			t.Fatalf("%+v %v", plan, err)
		}
	}
}

// until waits until an undo's first step is in a state.
func until(t *testing.T, p *process, id, state string) client.Undo {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		u, err := client.New(p.url, p.token).Undo(t.Context(), id)
		if err != nil || time.Now().After(end) {
			t.Fatalf("not %s: %+v %v", state, u, err)
		}
		if u.Steps[0].State == state {
			return u
		}
	}
}

// A call of an HTTP API is undone by another, made of what it was given and what
// it answered. That goes through policy, people and the log like any call, and no
// second undo makes it again.
func TestAnHTTPOperationUndoesAnother(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	key := p.company(t)
	s := newShop(t, p)
	fiona := p.person(t, "fiona", "approver")
	p.api(t, "PUT", "/groups/deciders", map[string]any{"members": []string{"admin", "fiona"}}, nil)
	p.api(t, "PUT", "/policies/cancels", map[string]any{"text": `
@id("held") @approval("deciders") forbid (principal, action == Action::"shop/cancel", resource) when { context.args has query && context.args.query has why && context.args.query.why == "held" };
@id("never") forbid (principal, action == Action::"shop/cancel", resource) when { context.args has header && context.args.header has "X-Reason" && context.args has body && context.args.body has of && context.args.body.of == "never" };`}, nil)
	admin := client.New(p.url, p.token).WithReason("ordered twice")
	ctx := t.Context()

	what, plan := s.ordered(t, p, key, "/orders", "held")
	u, err := admin.BeginUndo(ctx, what, plan.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := admin.BeginUndo(ctx, what, plan.Digest); err == nil {
		t.Errorf("it is undone twice: %+v", again)
	}
	u = until(t, p, u.ID, "held")
	const path, decision = "/api/v1/approvals/", `{"verdict":"approve","reason":"it was ordered twice"}`
	if status, body := p.as(t, p.token, "POST", path+u.Steps[0].Approval+"/decision", decision); status != http.StatusForbidden {
		t.Errorf("who undoes approves it: %d %s", status, body)
	}
	if n := s.cancels("held"); len(n) > 0 {
		t.Errorf("it went out before people approved it: %v", n)
	}
	if status, body := p.as(t, fiona, "POST", path+u.Steps[0].Approval+"/decision", decision); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	u = until(t, p, u.ID, "done")
	if n := s.cancels("held"); len(n) != 1 || n[0] != `/orders/held?why=held undone {"of":"held"} `+u.Steps[0].Made {
		t.Errorf("%v, made as %s", n, u.Steps[0].Made)
	}
	p.logged(t, u.Steps[0].Made)
	if again, err := admin.PlanUndo(ctx, what); err != nil || !strings.Contains(again.Steps[0].Why, u.ID) {
		t.Errorf("%+v %v", again, err)
	}
	if again, err := admin.BeginUndo(ctx, what, plan.Digest); err == nil {
		t.Errorf("it is undone twice: %+v", again)
	}

	// What policy forbids, and an answer that would lead to another operation.
	for note, why := range map[string]string{"never": "refused", "all": "it cannot be made"} {
		what, plan := s.ordered(t, p, key, "/orders", note)
		u, err := admin.BeginUndo(ctx, what, plan.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if u = until(t, p, u.ID, "failed"); !strings.Contains(u.Steps[0].Why, why) || len(s.cancels(note)) > 0 {
			t.Errorf("%s: %+v, %v", note, u.Steps[0], s.cancels(note))
		}
	}
	if n := s.cancels("held"); len(n) != 1 {
		t.Errorf("%v", n)
	}
}

// logged checks that the log has a compensating call as one of the agent, on
// behalf of who undoes.
func (p *process) logged(t *testing.T, call string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		status, body := p.as(t, p.token, "GET", "/api/v1/log/events?q=type:call.intent%20call:"+call, "")
		if status == http.StatusOK && strings.Contains(body, `"agent":"worker"`) && strings.Contains(body, `"name":"admin"`) && strings.Contains(body, `"tool":"cancel"`) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d %s", status, body)
		}
	}
}
