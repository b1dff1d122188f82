package egress_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

// The programs that people run, with a base URL.
func TestRealClients(t *testing.T) {
	r := newRig(t, echo, petOperations)
	for name, args := range map[string][]string{
		"curl":            {"curl", "-sS", "-H", "Authorization: Bearer " + r.Key, r.url + "/pets?limit=2"},
		"curl, a form":    {"curl", "-sS", "-u", "agent:" + r.Key, "-F", "title=Hi", "-F", "file=@/etc/hostname", r.url + "/upload"},
		"Python requests": {"python3", "-c", "import requests; s = requests.Session(); s.auth = ('agent', '" + r.Key + "'); print(s.get('" + r.url + "/pets', params={'limit': 2}).text); s.post('" + r.url + "/pets', json={'name': 'Rex'}).raise_for_status()"},
		"Node fetch":      {"node", "-e", "fetch('" + r.url + "/pets?limit=2', {headers: {authorization: 'Bearer " + r.Key + "'}}).then(r => r.text()).then(console.log)"},
		"Node, a form":    {"node", "-e", "const f = new FormData(); f.set('title', 'Hi'); f.set('file', new Blob(['x']), 'a.txt'); fetch('" + r.url + "/upload', {method: 'POST', body: f, headers: {authorization: 'Bearer " + r.Key + "'}}).then(r => r.text()).then(console.log)"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skip(err)
			}
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = append(os.Environ(), "NO_PROXY=*")
			out, err := cmd.CombinedOutput()
			s := string(out)
			if strings.Contains(s, "No module named") {
				t.Skip(s)
			}
			if err != nil || !strings.Contains(s, "GET /pets?limit=2") && !strings.Contains(s, "POST /upload") {
				t.Errorf("%v: %s", err, s)
			}
		})
	}
}

// GitHub's API by its own OpenAPI document, called as its SDKs call it: an
// absolute base URL, a token, paths by operation.
func TestGitHubByItsDocument(t *testing.T) {
	doc, err := os.ReadFile("../../connections/openapi/testdata/github.json")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, up: upstream.Start(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		switch {
		case strings.HasSuffix(q.URL.Path, "/issues") && q.Method == "GET":
			_, _ = w.Write([]byte(`[{"number":7,"title":"It rains in"}]`))
		case q.Method == "POST":
			w.WriteHeader(201)
			_, _ = w.Write([]byte(`{"number":8,"title":"Roof"}`))
		default:
			_, _ = w.Write([]byte(`{"full_name":"acme/site","name":"site"}`))
		}
	})}
	r.serve(storagetest.Open(t, storagetest.SQLite(t)), r.up.URL, "", nil)
	if _, err := r.Connections.Import(context.Background(), line.By, line.Reason, "forge", doc); err != nil {
		t.Fatal(err)
	}
	r.Policies(`@id("reads") permit (principal, action in Action::"effect:read", resource);
@id("issues") permit (principal, action == Action::"forge/issues/create", resource) when { context.args.path.owner == "acme" && context.args.path.repo == "site" };`)
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/repos/acme/site", "", 200},
		{"GET", "/repos/acme/site/issues?state=open&per_page=30", "", 200},
		{"GET", "/repos/acme/site/contents/docs/a.md?ref=main", "", 200},
		{"POST", "/repos/acme/site/issues", `{"title":"Roof","labels":["bug"]}`, 201},
		{"POST", "/repos/acme/other/issues", `{"title":"Roof"}`, 403},
		{"PUT", "/repos/acme/site/pulls/3/merge", `{"merge_method":"squash"}`, 403},
		{"DELETE", "/repos/acme/site", "", 405},
		{"GET", "/repos/acme/site/hooks", "", 404},
		{"GET", "/repos/acme/site/pulls/x", "", 400},
	} {
		header := []string{"Accept", "application/vnd.github+json", "X-GitHub-Api-Version", "2022-11-28"}
		var a answer
		if c.body != "" {
			a = r.ask(c.method, c.path, text(c.body), append(header, "Content-Type", "application/json")...)
		} else {
			a = r.ask(c.method, c.path, nil, header...)
		}
		if a.status != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.body)
		}
	}
}
