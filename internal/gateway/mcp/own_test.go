package mcp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

const payHeld = `@id("pay-held") @approval("controllers") forbid(principal, action == Action::"srv/pay", resource);`

// held is a house whose agent's payments wait for fiona.
func held(t *testing.T, policy string) (h *house, up *upstream, key string) {
	t.Helper()
	h = assemble(t, &house{people: true, progress: 20 * time.Millisecond}, filepath.Join(t.TempDir(), "cs.db"))
	up = newUpstream(t, twoTools)
	h.connect(connections.Connection{Name: "srv", URL: up.URL})
	key = h.agent("bot")
	h.allow("bot", "srv")
	_, err := h.ids.PutGroup(context.Background(), audit.System, "test", identity.Group{Name: "controllers", Members: []string{"fiona"}})
	h.must(err)
	h.policy(policy)
	return h, up, key
}

var approvalID = regexp.MustCompile(`apr_[0-9a-z]{26}`)

func (h *house) decide(id string, v approvals.Verdict) {
	h.t.Helper()
	u, _ := h.ids.User("fiona")
	_, err := h.asks.Decide(context.Background(), approvals.By{Person: approvals.Person{ID: u.ID, Name: u.Name}, Channel: "api"}, id, v, "test")
	h.must(err)
}

func (h *house) reaches(id string, s approvals.State) {
	h.t.Helper()
	var r approvals.Request
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var err error
		r, err = h.asks.Get(context.Background(), id)
		h.must(err)
		if r.State == s {
			return
		}
	}
	h.t.Fatalf("%s is %s, not %s", id, r.State, s)
}

// modern posts a message of the newer era from a client with capabilities caps.
func (h *house) modern(key, path, method, name, params, caps string) reply {
	h.t.Helper()
	if params != "" {
		params += ","
	}
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":9,"method":%q,"params":{%s"_meta":{%q:%q,%q:%s}}}`, method, params, wire.MetaVersion, wire.Modern, wire.MetaCapabilities, caps)
	headers := []string{wire.HeaderVersion, wire.Modern, wire.HeaderMethod, method}
	if name != "" {
		headers = append(headers, wire.HeaderName, name)
	}
	return h.raw(key, path, body, headers...)
}

const withTasks = `{"extensions":{"io.modelcontextprotocol/tasks":{}}}`

func payments(up *upstream) (n int) {
	for _, m := range up.received() {
		if strings.Contains(m, `"tools/call"`) {
			n++
		}
	}
	return n
}

func checkOf(id string) string {
	return call("5", "check_approval", fmt.Sprintf(`{"id":%q}`, id))
}

// The tool is there where a call may have to wait, and tells only the agent
// whose call it is how it stands.
func TestCheckApproval(t *testing.T) {
	for path, name := range map[string]string{"/mcp/srv": "pay", "/mcp": "srv__pay"} {
		h, up, key := held(t, "")
		list := `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
		if r := h.raw(key, path, list); strings.Contains(r.body, "check_approval") {
			t.Errorf("%s offers it though nothing is ever held: %s", path, r.body)
		}
		h.policy(payHeld)
		if r := h.raw(key, path, list); strings.Count(r.body, `"name":"check_approval"`) != 1 {
			t.Errorf("%s: %s", path, r.body)
		}
		r := h.raw(key, path, call("1", name, `{"id":"x"}`))
		id := approvalID.FindString(r.body)
		if !strings.Contains(r.body, "check_approval") {
			t.Errorf("the model is not told: %s", r.body)
		}
		if r := h.raw(key, path, checkOf(id)); !strings.Contains(r.body, `"state":"pending"`) || !strings.Contains(r.body, `"isError":false`) {
			t.Errorf("pending: %s", r.body)
		}
		other := h.agent("other")
		h.allow("other", "srv")
		missing := h.raw(other, path, checkOf("apr_00000000000000000000000000"))
		if r := h.raw(other, path, checkOf(id)); r.body != missing.body || strings.Contains(r.body, "pending") {
			t.Errorf("another agent learns of it: %s", r.body)
		}
		for _, bad := range []string{`{}`, `{"id":7}`, `{"id":"apr_x"}`, fmt.Sprintf(`{"id":%q,"wait":-1}`, id), fmt.Sprintf(`{"id":%q,"wait":1.5}`, id), fmt.Sprintf(`{"id":%q,"wait":99999999999999999999}`, id)} {
			if r := h.raw(key, path, call("1", "check_approval", bad)); strings.Contains(r.body, `"state"`) || r.status != 200 {
				t.Errorf("%s: %d %s", bad, r.status, r.body)
			}
		}
		asked := make(chan reply, 1)
		go func() {
			asked <- h.raw(key, path, call("1", "check_approval", fmt.Sprintf(`{"id":%q,"wait":30}`, id)))
		}()
		h.decide(id, approvals.Approve)
		if r := <-asked; !strings.Contains(r.body, `"state":"approved"`) || !strings.Contains(r.body, "repeat the identical call") {
			t.Errorf("approved: %s", r.body)
		}
		if n := payments(up); n != 0 {
			t.Errorf("%d payments were made by asking", n)
		}
		if r := h.raw(key, path, call("2", name, `{"id":"x"}`)); !strings.Contains(r.body, "done") {
			t.Errorf("%s", r.body)
		}
		id = approvalID.FindString(h.raw(key, path, call("1", name, `{"id":"y"}`)).body)
		h.decide(id, approvals.Deny)
		if r := h.raw(key, path, checkOf(id)); !strings.Contains(r.body, "denied by fiona") || !strings.Contains(r.body, `"isError":true`) {
			t.Errorf("denied: %s", r.body)
		}
		h.allow("bot", "srv", "read") // whose calls nobody holds
		if r := h.raw(key, path, list); strings.Contains(r.body, `"name":"check_approval"`) {
			t.Errorf("%s offers it to who may use nothing that is held: %s", path, r.body)
		}
	}
}

// An upstream's own tool of the name is not taken over.
func TestAnUpstreamsOwnCheckApprovalComesFirst(t *testing.T) {
	h, up, key := held(t, payHeld)
	up.setTools(`[{"name":"check_approval","inputSchema":{"type":"object"}},{"name":"pay","inputSchema":{"type":"object"}}]`)
	_, err := h.conns.Refresh(context.Background(), admin, "test", "srv")
	h.must(err)
	h.must(h.conns.Accept(context.Background(), admin, "test", "srv", "check_approval"))
	if r := h.raw(key, "/mcp/srv", checkOf("apr_x")); !strings.Contains(r.body, `"text":"done"`) {
		t.Errorf("%s", r.body)
	}
	list := `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	if r := h.raw(key, "/mcp/srv", list); strings.Count(r.body, `"name":"check_approval"`) != 1 {
		t.Errorf("two of a name: %s", r.body)
	}
}

// With the server's execution the answer waits for who asks by the id, who may
// ask again; the same call is a new request then.
func TestAnAnswerIsCollectedByTheRequestsID(t *testing.T) {
	h, up, key := held(t, strings.Replace(payHeld, "@approval", `@execute("server") @approval`, 1))
	id := approvalID.FindString(h.raw(key, "/mcp/srv", call("1", "pay", `{"id":"x"}`)).body)
	h.decide(id, approvals.Approve)
	h.reaches(id, approvals.Executed)
	for range 2 {
		if r := h.raw(key, "/mcp/srv", checkOf(id)); !strings.Contains(r.body, `"big":12345678901234567890`) || !strings.Contains(r.body, `"id":5`) {
			t.Fatalf("%s", r.body)
		}
	}
	if n := payments(up); n != 1 {
		t.Errorf("%d payments", n)
	}
	got := h.events("call.replayed", 2)
	if got[0].Agent != "bot" || got[0].Tool != "pay" || !strings.Contains(string(got[0].Detail), id) {
		t.Errorf("%+v", got[0])
	}
	if r := h.raw(key, "/mcp/srv", call("2", "pay", `{"id":"x"}`)); !strings.Contains(r.body, "Pending") || strings.Contains(r.body, id) {
		t.Errorf("the same call again: %s", r.body)
	}
	// Whose grant is gone does not get what was answered before.
	h.allow("bot", "srv", "read")
	if r := h.raw(key, "/mcp/srv", checkOf(id)); strings.Contains(r.body, "done") {
		t.Errorf("without a grant: %s", r.body)
	}
}

// A client that declares the Tasks extension gets a task, whose call the server
// makes; one that does not, never.
func TestAHeldCallIsATask(t *testing.T) {
	for path, name := range map[string]string{"/mcp/srv": "pay", "/mcp": "srv__pay"} {
		h, up, key := held(t, payHeld)
		args := fmt.Sprintf(`"name":%q,"arguments":{"id":"x"}`, name)
		if r := h.modern(key, path, "tools/call", name, args, `{}`); strings.Contains(r.body, `"task"`) || !strings.Contains(r.body, "Pending") {
			t.Errorf("%s: without the capability: %s", path, r.body)
		}
		r := h.modern(key, path, "tools/call", name, args, withTasks)
		id := approvalID.FindString(r.body)
		if !strings.Contains(r.body, `"resultType":"task","taskId":"`+id+`","status":"working"`) || !strings.Contains(r.body, `"ttlMs":`) || !strings.Contains(r.body, `"pollIntervalMs":5000`) {
			t.Fatalf("%s: %s", path, r.body)
		}
		get := func(key, caps string) reply {
			return h.modern(key, path, "tasks/get", id, fmt.Sprintf(`"taskId":%q`, id), caps)
		}
		if r := get(key, withTasks); !strings.Contains(r.body, `"resultType":"complete"`) || !strings.Contains(r.body, `"status":"working"`) {
			t.Errorf("%s", r.body)
		}
		if r := get(key, `{}`); !strings.Contains(r.body, `-32021`) || !strings.Contains(r.body, `"requiredCapabilities"`) {
			t.Errorf("%s", r.body)
		}
		other := h.agent("other")
		h.allow("other", "srv")
		if r := get(other, withTasks); !strings.Contains(r.body, `-32602`) || strings.Contains(r.body, "working") {
			t.Errorf("another agent: %s", r.body)
		}
		if r := h.modern(key, path, "tasks/update", id, fmt.Sprintf(`"taskId":%q,"inputResponses":{}`, id), withTasks); !strings.Contains(r.body, `"result":{"resultType":"complete"}`) {
			t.Errorf("%s", r.body)
		}
		h.decide(id, approvals.Approve)
		h.reaches(id, approvals.Executed)
		for range 2 {
			if r := get(key, withTasks); !strings.Contains(r.body, `"status":"completed"`) || !strings.Contains(r.body, `"result":{`) || !strings.Contains(r.body, `"text":"done"`) {
				t.Errorf("%s: %s", path, r.body)
			}
		}
		if n := payments(up); n != 1 {
			t.Errorf("%s: %d payments", path, n)
		}
	}
}

func TestTasksEndAsTheirRequestsDo(t *testing.T) {
	h, up, key := held(t, payHeld)
	begin := func(arg string) string {
		return approvalID.FindString(h.modern(key, "/mcp", "tools/call", "srv__pay", fmt.Sprintf(`"name":"srv__pay","arguments":{"id":%q}`, arg), withTasks).body)
	}
	get := func(id string) string {
		return h.modern(key, "/mcp", "tasks/get", id, fmt.Sprintf(`"taskId":%q`, id), withTasks).body
	}
	denied := begin("a")
	h.decide(denied, approvals.Deny)
	if b := get(denied); !strings.Contains(b, `"status":"completed"`) || !strings.Contains(b, `"isError":true`) || !strings.Contains(b, "denied by fiona") {
		t.Errorf("denied: %s", b)
	}
	cancelled := begin("b")
	if r := h.modern(key, "/mcp", "tasks/cancel", cancelled, fmt.Sprintf(`"taskId":%q`, cancelled), withTasks); !strings.Contains(r.body, `"result":{"resultType":"complete"}`) {
		t.Errorf("cancel: %s", r.body)
	}
	if b := get(cancelled); !strings.Contains(b, `"status":"cancelled"`) {
		t.Errorf("cancelled: %s", b)
	}
	u, _ := h.ids.User("fiona")
	if _, err := h.asks.Decide(context.Background(), approvals.By{Person: approvals.Person{ID: u.ID, Name: u.Name}}, cancelled, approvals.Approve, "late"); err == nil {
		t.Error("a cancelled task was approved")
	}
	for _, bad := range []string{`"taskId":"apr_00000000000000000000000000"`, `"taskId":"x"`, `"taskId":7`, ``} {
		if r := h.modern(key, "/mcp", "tasks/get", "", bad, withTasks); !strings.Contains(r.body, `-32602`) {
			t.Errorf("%s: %s", bad, r.body)
		}
	}
	if n := payments(up); n != 0 {
		t.Errorf("%d payments", n)
	}
}

// An upstream that the endpoint stands for gets its server/discover completed.
func TestTasksAreDeclared(t *testing.T) {
	h, up, key := held(t, payHeld)
	up.on(func(w http.ResponseWriter, _ *http.Request, body string) bool {
		if !strings.Contains(body, `"server/discover"`) {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, `{"jsonrpc":"2.0","id":9,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}`)
		return err == nil
	})
	for _, path := range []string{"/mcp", "/mcp/srv"} {
		if r := h.modern(key, path, "server/discover", "", "", `{}`); !strings.Contains(r.body, `"extensions":{"io.modelcontextprotocol/tasks":{}}`) {
			t.Errorf("%s: %s", path, r.body)
		}
	}
}

const withLinks = `{"elicitation":{"url":{}}}`

// The person at the client is shown where to decide, if they may; what comes
// back with the repeated call is neither approved nor forwarded.
func TestThePersonAtTheClientIsShownWhereToDecide(t *testing.T) {
	for path, name := range map[string]string{"/mcp/srv": "pay", "/mcp": "srv__pay"} {
		h, up, key := held(t, payHeld)
		args := fmt.Sprintf(`"name":%q,"arguments":{"id":"x"}`, name)
		if r := h.modern(key, path, "tools/call", name, args, withLinks); strings.Contains(r.body, "input_required") {
			t.Errorf("%s: the agent's owner may not decide: %s", path, r.body)
		}
		_, err := h.ids.PutGroup(context.Background(), audit.System, "test", identity.Group{Name: "controllers", Members: []string{"fiona", "pat"}})
		h.must(err)
		r := h.modern(key, path, "tools/call", name, args, withLinks)
		id := approvalID.FindString(r.body)
		if !strings.Contains(r.body, `"resultType":"input_required"`) || !strings.Contains(r.body, `"mode":"url"`) || !strings.Contains(r.body, `"url":"http://countersign.example/`) {
			t.Fatalf("%s: %s", path, r.body)
		}
		state := regexp.MustCompile(`"requestState":"(cs1\.[^"]+)"`).FindStringSubmatch(r.body)[1]
		answer := func(action string) string {
			return fmt.Sprintf(`%s,"requestState":%q,"inputResponses":{"approval":{"action":%q}}`, args, state, action)
		}
		if r := h.modern(key, path, "tools/call", name, answer("decline"), withLinks); !strings.Contains(r.body, "Pending") || approvalID.FindString(r.body) != id {
			t.Errorf("%s: declined: %s", path, r.body)
		}
		if r := h.modern(key, path, "tools/call", name, strings.Replace(answer("accept"), state[10:20], "AAAAAAAAAA", 1), withLinks); !strings.Contains(r.body, "-32602") && !strings.Contains(r.body, "requestState is not") {
			t.Errorf("%s: forged: %s", path, r.body)
		}
		done := make(chan reply, 1)
		go func() { done <- h.modern(key, path, "tools/call", name, answer("accept"), withLinks) }()
		u, _ := h.ids.User("pat")
		_, err = h.asks.Decide(context.Background(), approvals.By{Person: approvals.Person{ID: u.ID, Name: u.Name}}, id, approvals.Approve, "mine to decide")
		h.must(err)
		if r := <-done; !strings.Contains(r.body, `"text":"done"`) {
			t.Errorf("%s: %s", path, r.body)
		}
		for _, m := range up.received() {
			if strings.Contains(m, "requestState") || strings.Contains(m, "inputResponses") {
				t.Errorf("%s: the upstream got %s", path, m)
			}
		}
	}
}

// Asking for a task, or for another one, is no part of what people approve.
func TestTheTaskIsNoPartOfWhatIsApproved(t *testing.T) {
	h, _, key := held(t, payHeld)
	ids := map[string]bool{}
	for _, task := range []string{``, `,"task":{"ttl":1}`, `,"task":{"ttl":2}`} {
		r := h.modern(key, "/mcp/srv", "tools/call", "pay", `"name":"pay","arguments":{"id":"x"}`+task, `{}`)
		ids[approvalID.FindString(r.body)] = true
	}
	if len(ids) != 1 || ids[""] {
		t.Errorf("one call is %d requests: %v", len(ids), ids)
	}
}
