package server_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/example"
	"github.com/countersign/countersign/internal/secrets/leaktest"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// partEnv makes the test binary be a part of the example business, for
// upstreams over stdio.
const partEnv = "COUNTERSIGN_TEST_PART"

func partProcess(part string) int {
	if part == "database" {
		return databasePart()
	}
	err := example.Run(context.Background(), part, os.Args[1:], example.IO{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// echo is an upstream that gives away what it was sent, credential included.
func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	said, _ := json.Marshal(fmt.Sprintf("I received %v and %s", r.Header, b))
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}]}`, said)
}

// Every secret that a run of the product touches is looked for, in every form,
// in the database, the write-ahead log, the output of the server and the
// arguments of every process.
func TestNoSecretIsWritten(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		known := leaktest.Secrets{
			"the model's key":     "Zq7-upstream-model-key-41xWv",
			"the ledger's secret": "Yt3-ledger-secret-90kLmPq",
			"a password":          "correct horse 77 battery staple",
			"a pasted key":        "sk-proj-" + strings.Repeat("Ab3dEf6hIj9kLm2n", 3),
		}
		upstream := httptest.NewServer(http.HandlerFunc(echo))
		defer upstream.Close()
		data := t.TempDir()
		p := start(t, data, dsn, "")
		known["the agent's key"] = p.company(t)
		known["the administrator's token"] = p.token
		p.api(t, "PUT", "/users/olga/password", map[string]any{"password": known["a password"]}, nil)
		p.model(t, "up", "openai", upstream.URL, known["the model's key"])
		known["a run token"] = p.ledger(t, known["the ledger's secret"])

		var prompt strings.Builder
		for name, value := range known {
			if name != "a password" { // we keep its hash alone, and words look like words
				fmt.Fprintf(&prompt, "%s is %s. ", name, value)
			}
		}
		for _, held := range []string{"the model's key", "the ledger's secret"} {
			fmt.Fprintf(&prompt, "In base64 it is %s. ", base64.StdEncoding.EncodeToString([]byte("x"+known[held])))
		}
		status, answer := p.post(t, "/llm/up/v1/chat/completions", known["the agent's key"],
			map[string]any{"model": "m", "max_tokens": 5, "messages": []any{map[string]any{"role": "user", "content": prompt.String()}}})
		if status != http.StatusOK || !strings.Contains(answer, "Bearer "+strings.Repeat("*", len(known["the model's key"]))) {
			t.Fatalf("the upstream did not get its credential: %d %s", status, answer)
		}
		if strings.Contains(answer, known["the model's key"]) {
			t.Error("the agent was shown the upstream's credential")
		}
		answer = p.tool(t, "/mcp/ledger", known["a run token"], "flag_anomaly", map[string]any{"number": "4711", "reason": prompt.String()})
		if !strings.Contains(answer, "4711") {
			t.Errorf("the ledger was not called: %.300s", answer)
		}

		leaktest.Processes(t, known)
		p.stop(t)
		leaktest.Bytes(t, known, "the server's output", p.stderr.Bytes())
		leaktest.Files(t, known, data)
		leaktest.Bytes(t, known, "the database", dump(t, dsn))
	})
}

// ledger registers the example's ledger over stdio and returns a run token.
func (p *process) ledger(t testing.TB, secret string) string {
	t.Helper()
	p.api(t, "PUT", "/secrets/ledger-secret", map[string]any{"value": secret, "owner": "olga", "connection": "ledger"}, nil)
	p.api(t, "PUT", "/connections/ledger", map[string]any{"kind": "mcp", "owner": "olga", "command": []string{os.Args[0], "--data", t.TempDir()},
		"env": map[string]string{partEnv: "ledger", "LEDGER_SECRET": "secret://ledger-secret"}}, nil)
	p.grant(t, "ledger")
	var run struct {
		Token string `json:"token"`
	}
	p.api(t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "10m"}, &run)
	return run.Token
}

// tool calls a tool over a session, as clients of protocol 2025-11-25 do, and
// returns the answer as it came.
func (p *process) tool(t testing.TB, path, credential, name string, arguments any) string {
	t.Helper()
	message := func(id int, method string, params any) map[string]any {
		m := map[string]any{"jsonrpc": "2.0", "method": method, "params": params}
		if id > 0 {
			m["id"] = id
		}
		return m
	}
	resp, body := p.send(t, path, credential, "", message(1, "initialize", map[string]any{
		"protocolVersion": "2025-11-25", "capabilities": map[string]any{}, "clientInfo": map[string]any{"name": "test", "version": "1"}}))
	session := resp.Header.Get("Mcp-Session-Id")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("initialize: %s %s", resp.Status, body)
	}
	p.send(t, path, credential, session, message(0, "notifications/initialized", map[string]any{}))
	_, body = p.send(t, path, credential, session, message(2, "tools/call", map[string]any{"name": name, "arguments": arguments}))
	return body
}

// post calls a door of the line.
func (p *process) post(t testing.TB, path, credential string, in any) (int, string) {
	t.Helper()
	resp, body := p.send(t, path, credential, "", in)
	return resp.StatusCode, body
}

func (p *process) send(t testing.TB, path, credential, session string, in any) (*http.Response, string) {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest("POST", p.url+path, bytes.NewReader(b))
	req.Header.Set("Authorization", "Bearer "+credential)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		req.Header.Set("Mcp-Session-Id", session)
		req.Header.Set("Mcp-Protocol-Version", "2025-11-25")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	return resp, string(answer)
}

// dump returns everything that is in the database.
func dump(t testing.TB, dsn string) []byte {
	t.Helper()
	if !strings.HasPrefix(dsn, "postgres") {
		var all []byte
		for _, suffix := range []string{"", "-wal", "-shm"} {
			b, err := os.ReadFile(dsn + suffix)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		return all
	}
	for _, tool := range []string{"pg_dump", "/usr/lib/postgresql/15/bin/pg_dump"} {
		if path, err := exec.LookPath(tool); err == nil {
			out, err := exec.Command(path, dsn).Output()
			if err != nil {
				t.Fatalf("pg_dump: %v %s", err, stderr(err))
			}
			return out
		}
	}
	t.Skip("pg_dump is not installed; the rows were not searched")
	return nil
}
