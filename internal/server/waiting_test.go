package server_test

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

const heldPayments = `
@id("held") @approval("deciders") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.number != "4705" };
@id("served") @approval("deciders") @execute("server") forbid (principal, action == Action::"ledger/pay_invoice", resource) when { context.args.number == "4705" };`

// payments is a server whose agent pays invoices of the example business, and
// a person who approves whatever waits.
type payments struct {
	*process
	t    *testing.T
	key  string
	paid []string // invoices
}

func newPayments(t *testing.T) *payments {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	p := &payments{process: start(t, t.TempDir(), storagetest.SQLite(t), ""), t: t}
	p.key = p.company(t)
	p.ledger(t, "waiting-ledger-secret-0123456789")
	p.api(t, "PUT", "/groups/deciders", map[string]any{"members": []string{"admin"}}, nil)
	p.api(t, "PUT", "/policies/held", map[string]any{"text": heldPayments}, nil)
	return p
}

// approver approves what waits until the test ends.
func (p *payments) approver() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var rows []approvalRow
			p.api(p.t, "GET", "/approvals?state=pending", nil, &rows)
			for _, r := range rows {
				p.decide(p.t, r.ID, "approve")
			}
			time.Sleep(50 * time.Millisecond) // a person is not in a hurry
		}
	}()
	p.t.Cleanup(func() { stop(); <-done })
}

// pays is the payment of an open invoice; that of 4705 the server makes.
func (p *payments) pays(invoice string) map[string]any {
	cents := map[string]int{"4702": 21990, "4703": 342500, "4704": 189900, "4705": 64900}
	p.paid = append(p.paid, invoice)
	return map[string]any{"number": invoice, "amount_cents": cents[invoice], "currency": "EUR", "payee": "Nordwind GmbH", "iban": "DE89370400440532013000"}
}

// once fails the test unless each invoice was paid, once.
func (p *payments) once() {
	p.t.Helper()
	body := p.modern("tools/call", "list_payments", map[string]any{"name": "list_payments", "arguments": map[string]any{}}, map[string]any{})
	var m struct {
		Result struct {
			Structured struct {
				Payments []struct {
					Invoice string `json:"invoice"`
				} `json:"payments"`
			} `json:"structuredContent"`
		} `json:"result"`
	}
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		p.t.Fatalf("%v %s", err, body)
	}
	times := map[string]int{}
	for _, x := range m.Result.Structured.Payments {
		times[x.Invoice]++
	}
	for _, n := range p.paid {
		if times[n] != 1 {
			p.t.Errorf("invoice %s was paid %d times: %s", n, times[n], body)
		}
	}
}

// paidAs fails the test unless said begins with a word of waiting and ends with
// the answer to the payment.
func (p *payments) paidAs(way string, said []string, args map[string]any) {
	p.t.Helper()
	last := said[len(said)-1]
	if strings.Contains(last, "ERROR") || strings.Contains(last, "Pending") || !strings.Contains(last, args["number"].(string)) || !strings.Contains(last, "iban") {
		p.t.Errorf("%s: %q", way, said)
	}
	if way != "kept" && !strings.Contains(said[0], "Pending: ") {
		p.t.Errorf("%s: it was not told to wait: %q", way, said)
	}
}

// The official Go client finishes a held payment in each way of waiting.
func TestTheGoClientWaitsInEveryWay(t *testing.T) {
	p := newPayments(t)
	p.approver()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, err := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil).Connect(ctx, &sdk.StreamableClientTransport{Endpoint: p.url + "/mcp/ledger", HTTPClient: &http.Client{Transport: bearer(p.key)}, DisableStandaloneSSE: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	call := func(name string, args map[string]any, progress bool) (string, string) {
		params := &sdk.CallToolParams{Name: name, Arguments: args}
		if progress {
			params.SetProgressToken("p")
		}
		r, err := s.CallTool(ctx, params)
		if err != nil {
			t.Fatal(err)
		}
		text := r.Content[0].(*sdk.TextContent).Text
		if r.IsError {
			text = "ERROR " + text
		}
		structured, _ := r.StructuredContent.(map[string]any)
		state, _ := structured["state"].(string)
		return text, state
	}
	pay := func(args map[string]any) string { text, _ := call("pay_invoice", args, false); return text }
	id := func(said []string) string { return said[0][strings.Index(said[0], "apr_"):][:30] }

	kept := p.pays("4702")
	text, _ := call("pay_invoice", kept, true)
	p.paidAs("kept", []string{text}, kept)

	retry := p.pays("4703")
	said := []string{pay(retry)}
	for strings.Contains(said[len(said)-1], "Pending: ") {
		time.Sleep(50 * time.Millisecond) // it is told when to come back; an agent that comes earlier does no harm
		said = append(said, pay(retry))
	}
	p.paidAs("retry", said, retry)

	check := p.pays("4704")
	said = []string{pay(check)}
	for state := "pending"; state == "pending"; {
		_, state = call("check_approval", map[string]any{"id": id(said), "wait": 30}, false)
	}
	p.paidAs("check", append(said, pay(check)), check)

	served := p.pays("4705")
	said = []string{pay(served)}
	for state := "pending"; state == "pending" || state == "approved" || state == "executing"; {
		text, state = call("check_approval", map[string]any{"id": id(said), "wait": 30}, false)
	}
	p.paidAs("served", append(said, text), served)
	p.once()
}

// The official TypeScript client does, too.
func TestTheNpmClientWaitsInEveryWay(t *testing.T) {
	p := newPayments(t)
	dir := npmClients(t)
	p.approver()
	ways := map[string]map[string]any{"kept": p.pays("4702"), "retry": p.pays("4703"), "check": p.pays("4704"), "served": p.pays("4705")}
	said := p.npm(dir, "/mcp/ledger", ways)
	for way, args := range ways {
		p.paidAs(way, said[way], args)
	}
	p.once()
}

// npm has the official client pay in each way at a door, and returns what each
// got.
func (p *payments) npm(dir, door string, ways map[string]map[string]any) (said map[string][]string) {
	p.t.Helper()
	args, err := json.Marshal(ways)
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.CommandContext(p.t.Context(), "node", "waiting.mjs", p.url+door, string(args))
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "COUNTERSIGN_TOKEN="+p.key)
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("%v\n%s\n%s", err, out, stderr(err))
	}
	if err := json.Unmarshal(out, &said); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
	return said
}

// curl runs the program and returns what it prints.
func (p *payments) curl(args ...string) string {
	p.t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		p.t.Skip("curl is not installed")
	}
	cmd := exec.CommandContext(p.t.Context(), "curl", append([]string{"-sS", "--max-time", "60", "-H", "Authorization: Bearer " + p.key, "-H", "Content-Type: application/json"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("%v\n%s\n%s", err, out, stderr(err))
	}
	return string(out)
}

// So does plain curl, in the newer era, which needs no session; with a task, too.
func TestCurlWaitsInEveryWay(t *testing.T) {
	p := newPayments(t)
	tools := func(name string, args map[string]any, more ...string) string {
		return p.modern("tools/call", name, map[string]any{"name": name, "arguments": args}, map[string]any{}, more...)
	}
	retry := p.pays("4703")
	out := tools("pay_invoice", retry)
	id := p.pendingOf(t)
	if !strings.Contains(out, id) || !strings.Contains(out, "Pending") {
		t.Fatalf("%s", out)
	}
	if out := tools("check_approval", map[string]any{"id": id}); !strings.Contains(out, `"state":"pending"`) {
		t.Errorf("check: %s", out)
	}
	p.decide(t, id, "approve")
	p.finished("retry", tools("pay_invoice", retry), retry)

	p.approver()
	kept := p.pays("4702")
	p.finished("kept", tools("pay_invoice", kept, "-H", "Prefer: wait=40"), kept)

	served := p.pays("4705")
	if out = tools("pay_invoice", served); !strings.Contains(out, "Pending") {
		t.Errorf("served: %s", out)
	}
	p.settledAs(t, out[strings.Index(out, "apr_"):][:30], "executed")
	p.finished("served", tools("pay_invoice", served), served)
	p.task()
	p.once()
}

func (p *payments) finished(way, out string, args map[string]any) {
	p.t.Helper()
	if strings.Contains(out, "Pending") || strings.Contains(out, `"isError":true`) || !strings.Contains(out, args["number"].(string)) || !strings.Contains(out, "iban") {
		p.t.Errorf("%s: %s", way, out)
	}
}

// modern sends a message of the newer era from a client with capabilities.
func (p *payments) modern(method, name string, params, caps map[string]any, more ...string) string {
	p.t.Helper()
	params["_meta"] = map[string]any{"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": caps}
	b, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, json.Deterministic(true))
	if err != nil {
		p.t.Fatal(err)
	}
	return p.curl(append([]string{p.url + "/mcp/ledger", "-H", "Accept: application/json, text/event-stream", "-H", "Mcp-Protocol-Version: 2026-07-28", "-H", "Mcp-Method: " + method, "-H", "Mcp-Name: " + name, "-d", string(b)}, more...)...)
}

// task is a client that declares the Tasks extension.
func (p *payments) task() {
	p.t.Helper()
	send := func(method, name string, params map[string]any) string {
		return p.modern(method, name, params, map[string]any{"extensions": map[string]any{"io.modelcontextprotocol/tasks": map[string]any{}}})
	}
	args := p.pays("4704")
	out := send("tools/call", "pay_invoice", map[string]any{"name": "pay_invoice", "arguments": args})
	if !strings.Contains(out, `"resultType":"task"`) {
		p.t.Fatalf("no task: %s", out)
	}
	id := out[strings.Index(out, "apr_"):][:30]
	p.settledAs(p.t, id, "executed")
	out = send("tasks/get", id, map[string]any{"taskId": id})
	if !strings.Contains(out, `"status":"completed"`) {
		p.t.Errorf("%s", out)
	}
	p.finished("task", out, args)
}

// At the door of APIs a held call is 202 with the place to look, and at that of
// models 403; an identical one, or the wait that a client asks for, gets the
// answer; what the server makes waits for who asks again.
func TestHeldCallsOfAPIsAndModels(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	var paid atomic.Int64
	bank := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paid.Add(1)
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"receipt":%s}`, b)
	}))
	t.Cleanup(bank.Close)
	p := &payments{process: start(t, t.TempDir(), storagetest.SQLite(t), ""), t: t}
	p.key = p.company(t)
	p.api(t, "PUT", "/connections/bank", map[string]any{"kind": "http", "owner": "olga", "url": bank.URL, "allow_private": true}, nil)
	const document = `{"openapi":"3.0.0","info":{"title":"bank","version":"1"},"paths":{"/payments":{"post":{"operationId":"pay","requestBody":{"required":true,"content":{"application/json":{"schema":{"type":"object","properties":{"cents":{"type":"integer"}},"required":["cents"]}}}},"responses":{"201":{"description":"ok"}}}},"/raw":{"put":{"operationId":"upload","requestBody":{"content":{"application/octet-stream":{}}},"responses":{"201":{"description":"ok"}}}}}}`
	if _, err := client.New(p.url, p.token).WithReason("test").ImportOpenAPI(t.Context(), "bank", document, nil); err != nil {
		t.Fatal(err)
	}
	p.grant(t, "bank")
	p.model(t, "openai", "openai", serveModel(t, "waiting-model-key-0123456789"), "waiting-model-key-0123456789")
	p.api(t, "PUT", "/groups/deciders", map[string]any{"members": []string{"admin"}}, nil)
	p.api(t, "PUT", "/policies/held", map[string]any{"text": `
@id("model") @approval("deciders") forbid (principal, action in Action::"openai", resource);
@id("upload") @approval("deciders") forbid (principal, action == Action::"bank/upload", resource);
@id("held") @approval("deciders") forbid (principal, action == Action::"bank/pay", resource) when { context.args.body.cents < 1000 };
@id("served") @approval("deciders") @execute("server") forbid (principal, action == Action::"bank/pay", resource) when { context.args.body.cents >= 1000 };`}, nil)
	pay := func(cents int, more ...string) string {
		return p.curl(append([]string{"-i", p.url + "/http/bank/payments", "-d", fmt.Sprintf(`{"cents":%d}`, cents)}, more...)...)
	}
	out := pay(1)
	id := p.pendingOf(t)
	for _, want := range []string{"HTTP/1.1 202", "Location: ", "/approvals/" + id, "Retry-After: ", "X-Countersign-Approval: " + id, "application/problem+json", `"code":"approval_pending"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in %s", want, out)
		}
	}
	if again := pay(1); !strings.Contains(again, id) || paid.Load() != 0 {
		t.Errorf("an identical request does not attach: %s", again)
	}
	p.decide(t, id, "approve")
	if out := pay(1); !strings.Contains(out, "HTTP/1.1 201") || !strings.Contains(out, `{"receipt":{"cents":1}}`) {
		t.Errorf("approved: %s", out)
	}
	out = pay(1000)
	served := p.pendingOf(t)
	p.decide(t, served, "approve")
	p.settledAs(t, served, "executed")
	if again := pay(1000); !strings.Contains(again, "HTTP/1.1 201") || !strings.Contains(again, `{"receipt":{"cents":1000}}`) {
		t.Errorf("the kept answer: %s\n%s", again, out)
	}
	ask := func() string {
		return p.curl("-i", p.url+"/llm/openai/v1/chat/completions", "-d", `{"model":"test-echo","max_tokens":5,"messages":[{"role":"user","content":"hello"}]}`)
	}
	out = ask()
	id = p.pendingOf(t)
	if !strings.Contains(out, "HTTP/1.1 403") || !strings.Contains(out, `"code":"approval_pending"`) || !strings.Contains(out, id) {
		t.Errorf("a model: %s", out)
	}
	p.decide(t, id, "approve")
	if out := ask(); !strings.Contains(out, "HTTP/1.1 200") || !strings.Contains(out, "chat.completion") {
		t.Errorf("a model, approved: %s", out)
	}
	if status, body := p.upload(); status != http.StatusForbidden || !strings.Contains(body, "approval_impossible") {
		t.Errorf("what nobody could know before it is sent: %d %s", status, body)
	}
	p.approver()
	if out := pay(2, "-H", "Prefer: wait=40"); !strings.Contains(out, "HTTP/1.1 201") {
		t.Errorf("kept: %s", out)
	}
	if n := paid.Load(); n != 3 {
		t.Errorf("%d payments", n)
	}
}

// upload sends a body that does not say how long it is.
func (p *payments) upload() (int, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPut, p.url+"/http/bank/raw", io.MultiReader(strings.NewReader("some bytes")))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.key)
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
