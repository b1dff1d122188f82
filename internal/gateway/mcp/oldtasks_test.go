package mcp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// payHeldX holds the payments of 7, which are those of x, alone, so that others are made at once.
const payHeldX = `@id("pay-held") @approval("controllers") forbid(principal, action == Action::"srv/pay", resource) when { context.args has amount && context.args.amount == 7 };`

// old posts a message of 2025-11-25.
func (h *house) old(key, path, body string) string {
	h.t.Helper()
	return h.raw(key, path, body, wire.HeaderVersion, "2025-11-25").body
}

func message(method, params string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":3,"method":%q,"params":{%s}}`, method, params)
}

func taskCall(name, arg string) string {
	amount := map[bool]int{true: 7, false: 8}[arg == "x"]
	return message("tools/call", fmt.Sprintf(`"name":%q,"arguments":{"amount":%d,"id":%q},"task":{"ttl":60000}`, name, amount, arg))
}

var taskID = regexp.MustCompile(`tsk_[0-9a-z]{26}`)

// where an agent's payments are, by the two endpoints.
var bothEnds = map[string]string{"/mcp/srv": "pay", "/mcp": "srv__pay"}

// A client of 2025-11-25 that asks for a task gets one, whose call the server
// makes when people approve.
func TestAHeldCallIsATaskInTheOlderEra(t *testing.T) {
	for path, name := range bothEnds {
		h, up, key := held(t, strings.Replace(payHeldX, `@approval`, `@advice("look twice") @approval`, 1))
		body := h.old(key, path, message("tools/list", ""))
		if !strings.Contains(body, `"execution":{"taskSupport":"optional"}`) || strings.Count(body, "taskSupport") != 1 {
			t.Errorf("%s: the list says %s", path, body)
		}
		if b := h.raw(key, path, message("tools/list", "")).body; strings.Contains(b, "taskSupport") {
			t.Errorf("%s: an older client is told of tasks: %s", path, b)
		}
		body = h.old(key, path, taskCall(name, "x"))
		id := approvalID.FindString(body)
		if !strings.Contains(body, `"result":{"task":{"taskId":"`+id+`","status":"working"`) || !strings.Contains(body, `"ttl":`) || !strings.Contains(body, `"pollInterval":5000`) {
			t.Fatalf("%s: %s", path, body)
		}
		about := func(key, method string) string {
			return h.old(key, path, message(method, fmt.Sprintf(`"taskId":%q`, id)))
		}
		if b := about(key, "tasks/get"); !strings.Contains(b, `"result":{"taskId":"`+id+`","status":"working"`) {
			t.Errorf("%s: %s", path, b)
		}
		other := h.agent("other")
		h.allow("other", "srv")
		for _, method := range []string{"tasks/get", "tasks/result", "tasks/cancel"} {
			if b := about(other, method); !strings.Contains(b, "-32602") || strings.Contains(b, "working") {
				t.Errorf("%s: another agent, %s: %s", path, method, b)
			}
		}
		if b := about(key, "tasks/update"); !strings.Contains(b, "error") {
			t.Errorf("%s: a method of the newer era: %s", path, b)
		}
		result := make(chan string, 1)
		go func() { result <- about(key, "tasks/result") }()
		h.decide(id, approvals.Approve)
		if b := <-result; !strings.Contains(b, `"text":"done"`) || !strings.Contains(b, `"io.modelcontextprotocol/related-task":{"taskId":"`+id+`"}`) {
			t.Errorf("%s: the result that was waited for: %s", path, b)
		}
		if b := about(key, "tasks/get"); !strings.Contains(b, `"status":"completed"`) {
			t.Errorf("%s: %s", path, b)
		}
		if b := about(key, "tasks/cancel"); !strings.Contains(b, "-32602") {
			t.Errorf("%s: cancelled after its end: %s", path, b)
		}
		if n := payments(up); n != 1 {
			t.Errorf("%s: %d payments", path, n)
		}
		for _, m := range up.received() {
			if strings.Contains(m, `"task"`) {
				t.Errorf("%s: the upstream got %s", path, m)
			}
		}
	}
}

func TestTasksOfTheOlderEraEndAsTheirRequestsDo(t *testing.T) {
	h, up, key := held(t, payHeld)
	about := func(method, id string) string {
		return h.old(key, "/mcp", message(method, fmt.Sprintf(`"taskId":%q`, id)))
	}
	denied := approvalID.FindString(h.old(key, "/mcp", taskCall("srv__pay", "a")))
	h.decide(denied, approvals.Deny)
	if b := about("tasks/get", denied); !strings.Contains(b, `"status":"failed"`) {
		t.Errorf("denied: %s", b)
	}
	if b := about("tasks/result", denied); !strings.Contains(b, "denied by fiona") || !strings.Contains(b, `"isError":true`) {
		t.Errorf("denied: %s", b)
	}
	// The identical call, once more: there is nothing to be a task of.
	if b := h.old(key, "/mcp", taskCall("srv__pay", "a")); !strings.Contains(b, `"error":{`) || !strings.Contains(b, "denied by fiona") {
		t.Errorf("denied again: %s", b)
	}
	cancelled := approvalID.FindString(h.old(key, "/mcp", taskCall("srv__pay", "b")))
	if b := about("tasks/cancel", cancelled); !strings.Contains(b, `"status":"cancelled"`) {
		t.Errorf("cancel: %s", b)
	}
	if b := about("tasks/result", cancelled); !strings.Contains(b, `"isError":true`) || !strings.Contains(b, "withdrawn") {
		t.Errorf("cancelled: %s", b)
	}
	up.on(func(w http.ResponseWriter, _ *http.Request, body string) bool {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.Contains(body, `"id":"c"`):
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32099,"message":"the bank is shut"}}`)
		case strings.Contains(body, `"id":"d"`):
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"no money"}],"isError":true,"_meta":{"a":1}}}`)
		default:
			return false
		}
		return true
	})
	for arg, want := range map[string]string{"c": `"error":{"code":-32099,"message":"the bank is shut"}`, "d": `"_meta":{"io.modelcontextprotocol/related-task":`} {
		id := approvalID.FindString(h.old(key, "/mcp", taskCall("srv__pay", arg)))
		h.decide(id, approvals.Approve)
		h.reaches(id, approvals.Executed)
		if b := about("tasks/get", id); !strings.Contains(b, `"status":"failed"`) {
			t.Errorf("%s: %s", arg, b)
		}
		if b := about("tasks/result", id); !strings.Contains(b, want) {
			t.Errorf("%s: %s", arg, b)
		}
	}
	for _, bad := range []string{`"taskId":"apr_00000000000000000000000000"`, `"taskId":"tsk_00000000000000000000000000"`, `"taskId":"x"`, `"taskId":7`, ``} {
		for _, method := range []string{"tasks/get", "tasks/result", "tasks/cancel"} {
			if b := h.old(key, "/mcp", message(method, bad)); !strings.Contains(b, `-32602`) {
				t.Errorf("%s %s: %s", method, bad, b)
			}
		}
	}
}

// Who asks for a task of a call that nobody holds gets one that has ended, and
// its answer by its id: the agent alone, and only while it may use the tool.
func TestACallThatNobodyHoldsIsATaskToo(t *testing.T) {
	for path, name := range bothEnds {
		h, up, key := held(t, payHeldX)
		body := h.old(key, path, taskCall(name, "y"))
		id := taskID.FindString(body)
		if !strings.Contains(body, `"task":{"taskId":"`+id+`","status":"completed"`) || id == "" {
			t.Fatalf("%s: %s", path, body)
		}
		about := func(key, method string) string {
			return h.old(key, path, message(method, fmt.Sprintf(`"taskId":%q`, id)))
		}
		for range 2 {
			if b := about(key, "tasks/result"); !strings.Contains(b, `"big":12345678901234567890`) || !strings.Contains(b, "related-task") {
				t.Errorf("%s: %s", path, b)
			}
		}
		other := h.agent("other")
		h.allow("other", "srv")
		if b := about(other, "tasks/result"); !strings.Contains(b, "-32602") {
			t.Errorf("%s: another agent: %s", path, b)
		}
		if b := about(key, "tasks/cancel"); !strings.Contains(b, "-32602") {
			t.Errorf("%s: %s", path, b)
		}
		if n := payments(up); n != 1 {
			t.Errorf("%s: %d payments", path, n)
		}
		for _, m := range up.received() {
			if strings.Contains(m, `"task"`) {
				t.Errorf("%s: the upstream got %s", path, m)
			}
		}
		h.allow("bot", "srv", "read")
		if b := about(key, "tasks/result"); strings.Contains(b, "12345678901234567890") {
			t.Errorf("%s: without a grant: %s", path, b)
		}
	}
}

// Where nothing is held, or the upstream makes tasks of its own alone, a task is
// its business.
func TestAnUpstreamsOwnTasksPass(t *testing.T) {
	h, up, key := held(t, "")
	h.old(key, "/mcp/srv", taskCall("pay", "y"))
	if m := up.received(); !strings.Contains(m[len(m)-1], `"task":{"ttl":60000}`) {
		t.Errorf("nothing is ever held: %s", m[len(m)-1])
	}
	up.setTools(`[{"name":"pay","inputSchema":{"type":"object","properties":{"amount":{"type":"integer"}}},"execution":{"taskSupport":"required"}}]`)
	_, err := h.conns.Refresh(context.Background(), admin, "test", "srv")
	h.must(err)
	h.must(h.conns.Accept(context.Background(), admin, "test", "srv", "pay"))
	h.policy(payHeldX)
	h.old(key, "/mcp/srv", taskCall("pay", "y"))
	if m := up.received(); !strings.Contains(m[len(m)-1], `"task":{"ttl":60000}`) {
		t.Errorf("the upstream requires it: %s", m[len(m)-1])
	}
	body := h.old(key, "/mcp/srv", taskCall("pay", "x"))
	if !strings.Contains(body, `"error":{`) || approvalID.FindString(body) == "" {
		t.Errorf("held: %s", body)
	}
	h.decide(approvalID.FindString(body), approvals.Approve)
	h.old(key, "/mcp/srv", taskCall("pay", "x"))
	if m := up.received(); !strings.Contains(m[len(m)-1], `"task":{"ttl":60000}`) {
		t.Errorf("approved: %s", m[len(m)-1])
	}
	for _, method := range []string{"tasks/get", "tasks/result", "tasks/cancel"} { // of the upstream's
		h.old(key, "/mcp/srv", message(method, `"taskId":"theirs"`))
		if m := up.received(); !strings.Contains(m[len(m)-1], method) {
			t.Errorf("%s: %s", method, m[len(m)-1])
		}
	}
}

// Tasks are declared in the version that has them alone.
func TestTasksOfTheOlderEraAreDeclared(t *testing.T) {
	h, _, key := held(t, payHeld)
	for _, path := range []string{"/mcp", "/mcp/srv"} {
		hello := message("initialize", `"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"a","version":"1"}`)
		if b := h.raw(key, path, hello).body; !strings.Contains(b, `"tasks":{"cancel":{},"requests":{"tools":{"call":{}}}}`) {
			t.Errorf("%s: %s", path, b)
		}
	}
	if b := h.raw(key, "/mcp", message("initialize", `"protocolVersion":"2025-06-18","capabilities":{}`)).body; strings.Contains(b, `"tasks"`) {
		t.Errorf("%s", b)
	}
}

// What is no answer to the call is nothing to be a task of.
func TestATaskOfNoAnswer(t *testing.T) {
	h, up, key := held(t, payHeldX)
	for name, status := range map[string]int{"an error of HTTP": http.StatusBadRequest, "neither result nor error": http.StatusOK} {
		up.on(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			body := `{"jsonrpc":"2.0","id":3}`
			if status != http.StatusOK {
				body = `{"jsonrpc":"2.0","id":3,"error":{"code":-32600,"message":"no"}}`
			}
			_, _ = io.WriteString(w, body)
			return true
		})
		if b := h.old(key, "/mcp/srv", taskCall("pay", "y")); strings.Contains(b, `"task":{`) || taskID.MatchString(b) {
			t.Errorf("%s: %s", name, b)
		}
	}
}
