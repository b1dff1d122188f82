package server_test

import (
	"encoding/json/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// forge answers the part of GitHub's API that these tests call, and remembers
// issues.
type forge struct {
	mu     sync.Mutex
	titles []string
	tokens map[string]bool // that were seen
}

func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens[r.Header.Get("Authorization")] = true
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	say := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.MarshalWrite(w, v)
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /repos/acme/site":
		say(200, map[string]any{"full_name": "acme/site"})
	case "GET /repos/acme/site/issues":
		say(200, []any{map[string]any{"number": 7, "title": "It rains in"}})
	case "GET /repos/acme/site/contents/README.md":
		say(200, map[string]any{"type": "file", "path": "README.md", "content": "SGVsbG8="})
	case "GET /repos/acme/site/contents/docs/a.md":
		if r.URL.RawPath != "" { // the escaped slash that the SDK sent is one here
			say(400, map[string]any{"message": r.URL.RawPath})
			return
		}
		say(200, map[string]any{"type": "file", "path": "docs/a.md", "content": "SGVsbG8="})
	case "POST /repos/acme/site/issues":
		var in struct {
			Title string `json:"title"`
		}
		if err := json.UnmarshalRead(r.Body, &in); err != nil {
			say(422, map[string]any{"message": err.Error()})
			return
		}
		f.titles = append(f.titles, in.Title)
		say(201, map[string]any{"number": 8, "title": in.Title})
	default:
		say(404, map[string]any{"message": "Not Found"})
	}
}

// GitHub's own SDK, unmodified, on operations out of GitHub's own document.
func TestOctokit(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Node")
	}
	dir := npmClients(t)
	f := &forge{tokens: map[string]bool{}}
	api := httptest.NewServer(f)
	t.Cleanup(api.Close)
	doc, err := os.ReadFile("../connections/openapi/testdata/github.json")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	key := p.company(t)
	p.api(t, "PUT", "/secrets/github-token", map[string]any{"value": "ghs-0123456789-of-the-forge", "owner": "olga", "connection": "github", "hosts": []string{"127.0.0.1"}}, nil)
	p.api(t, "PUT", "/connections/github", map[string]any{"kind": "http", "url": api.URL, "owner": "olga", "allow_private": true, "secret": "github-token", "auth": "bearer"}, nil)
	p.api(t, "POST", "/connections/github/import", map[string]any{"document": string(doc)}, nil)
	p.api(t, "PUT", "/policies/test", map[string]any{"text": `
@id("reads") permit (principal, action in Action::"effect:read", resource);
@id("issues") permit (principal, action == Action::"github/issues/create", resource) when { context.args.path.owner == "acme" && context.args.path.repo == "site" };`}, nil)

	cmd := exec.Command("node", "github.mjs", p.url+"/http/github")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "COUNTERSIGN_TOKEN="+key, "NO_PROXY=*")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, stderr(err))
	}
	var got map[string]attempt
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"repository", "issues", "contents", "deep", "create"} {
		if a := got[name]; a.Error != nil || a.OK == nil {
			t.Errorf("%s: %+v", name, a.Error)
		}
	}
	for name, want := range map[string]struct {
		status int
		code   string
	}{"elsewhere": {403, "policy_denied"}, "merge": {403, "policy_denied"}, "hooks": {404, "unknown_operation"}} {
		if e := got[name].Error; e == nil || e.Status != want.status || e.Code != want.code {
			t.Errorf("%s: %+v", name, got[name])
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Join(f.titles, " ") != "Roof" || len(f.tokens) != 1 || !f.tokens["Bearer ghs-0123456789-of-the-forge"] {
		t.Errorf("the forge got the issues %v and the tokens %v", f.titles, f.tokens)
	}
}
