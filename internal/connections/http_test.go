package connections_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestAPI(t *testing.T) {
	r := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	mux := http.NewServeMux()
	api := rest.New(mux, "test", func(context.Context, string) (rest.Caller, error) {
		return rest.Caller{ID: "usr_pat", Name: "pat", Role: "operator"}, nil
	}, slog.New(slog.DiscardHandler))
	r.Routes(api)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	r.upstream.says(def("pay/now", "Pay"))
	const ledger = `{"kind":"mcp","command":["ledger"],"env":{"DB":"secret://db"},"owner":"fiona","timeout":"30s"}`
	digest := func() string { return r.tool("pay/now").DriftDigest }
	for _, step := range []struct {
		name         string
		before       func()
		method, path string
		body         func() string
		status       int
		contains     string
	}{
		{"none", nil, "GET", "/connections", nil, 200, "[]"},
		{"register", nil, "PUT", "/connections/ledger", func() string { return ledger }, 200, `"name":"pay/now"`},
		{"bad", nil, "PUT", "/connections/x", func() string { return strings.Replace(ledger, "fiona", "nobody", 1) }, 400, `owner: there is no user nobody`},
		{"no engine", nil, "PUT", "/connections/x", func() string { return strings.Replace(ledger, "mcp", "retrieval", 1) }, 400, `names its engine`},
		{"list", nil, "GET", "/connections", nil, 200, `"target":"ledger","owner":"fiona","tools":1,"drifted":0`},
		{"tools", nil, "GET", "/tools?connection=ledger", nil, 200, `"effect":"irreversible","status":"pinned"`},
		{"tools of nothing", nil, "GET", "/tools?connection=nothing", nil, 404, `connection_not_found`},
		{"tool with a slash", nil, "GET", "/connections/ledger/tools/pay%2Fnow", nil, 200, `"input_schema":{`},
		{"protocol tool", nil, "GET", "/connections/ledger/tools/mcp:resources%2Fread", nil, 200, `"builtin":true`},
		{"no tool", nil, "GET", "/connections/ledger/tools/x", nil, 404, "tool_not_found"},
		{"effect without a reason", nil, "PATCH", "/connections/ledger/tools/pay%2Fnow", func() string { return `{"effect":"write"}` }, 400, "reason_required"},
		{"effect", nil, "PATCH", "/connections/ledger/tools/pay%2Fnow", func() string { return `{"effect":"write","reason":"can be reversed"}` }, 200, `"effect":"write"`},
		{"references", nil, "PATCH", "/connections/ledger/tools/pay%2Fnow", func() string { return `{"subject":"a.email","objects":{"invoice":"a"},"reason":"traced"}` }, 200, `"subject":"a.email","objects":{"invoice":"a"}`},
		{"effect alone", nil, "PATCH", "/connections/ledger/tools/pay%2Fnow", func() string { return `{"effect":"read","reason":"really"}` }, 200, `"subject":"a.email","objects":{"invoice":"a"}`},
		{"subject alone", nil, "PATCH", "/connections/ledger/tools/pay%2Fnow", func() string { return `{"subject":"","reason":"none"}` }, 200, `"objects":{"invoice":"a"}`},
		{"references without a reason", nil, "PATCH", "/connections/ledger/tools/pay%2Fnow", func() string { return `{"subject":"a"}` }, 400, "reason_required"},
		{"a typo", nil, "PATCH", "/connections/ledger/tools/pay%2Fnow", func() string { return `{"objects":{"invoice":"invoce_id"},"reason":"r"}` }, 400, `the tool has no argument \"invoce_id\"; it has a`},
		{"of a protocol tool", nil, "PATCH", "/connections/ledger/tools/mcp:ping", func() string { return `{"subject":"a","reason":"r"}` }, 400, "builtin_tool"},
		{"capture", nil, "PUT", "/connections/ledger", func() string { return strings.Replace(ledger, "{", `{"capture":"digest",`, 1) }, 200, `"capture":"digest"`},
		{"a level that is none", nil, "PUT", "/connections/ledger", func() string { return strings.Replace(ledger, "{", `{"capture":"all",`, 1) }, 400, `capture: \"all\" must be full, redacted or digest`},
		{"the usual level", nil, "PUT", "/connections/ledger", func() string { return ledger }, 200, `"capture":"redacted"`},
		{"no difference", nil, "GET", "/connections/ledger/tools/pay%2Fnow/diff", nil, 200, `"lines":[]`},
		{"drift", func() { r.upstream.says(def("pay/now", "Pay twice")) }, "POST", "/connections/ledger/refresh", nil, 200, `"changed":["pay/now"]`},
		{"difference", nil, "GET", "/connections/ledger/tools/pay%2Fnow/diff", nil, 200, `{"path":"/description","old":"\"Pay\"","new":"\"Pay twice\""}`},
		{"stale", nil, "POST", "/connections/ledger/tools/pay%2Fnow/accept", func() string { return `{"digest":"00","reason":"ok"}` }, 409, "digest_mismatch"},
		{"accept", nil, "POST", "/connections/ledger/tools/pay%2Fnow/accept", func() string { return `{"digest":"` + digest() + `","reason":"ok"}` }, 200, `"status":"pinned"`},
		{"delete without a reason", nil, "DELETE", "/connections/ledger", nil, 400, "reason_required"},
	} {
		t.Run(step.name, func(t *testing.T) {
			if step.before != nil {
				step.before()
			}
			var body io.Reader = http.NoBody
			if step.body != nil {
				body = strings.NewReader(step.body())
			}
			req, err := http.NewRequest(step.method, server.URL+"/api/v1"+step.path, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer x")
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != step.status || !strings.Contains(string(b), step.contains) {
				t.Errorf("%d %s (%v)", resp.StatusCode, b, err)
			}
		})
	}
	if tool := r.tool("pay/now"); tool.Status != connections.StatusPinned || tool.Description != "Pay twice" {
		t.Errorf("%+v", tool)
	}
}
