package server_test

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var parameter = regexp.MustCompile(`\{[^}]*\}`)

// as sends a request with a token and returns status and body, of which a
// stream gives the beginning.
func (p *process) as(t testing.TB, token, method, path, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(method, path, err)
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return resp.StatusCode, ""
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(b)
}

// person makes a user with a role and returns a session of theirs.
func (p *process) person(t testing.TB, name, role string) string {
	t.Helper()
	const password = "correct horse battery"
	p.api(t, "PUT", "/users/"+name, map[string]any{"role": role}, nil)
	p.api(t, "PUT", "/users/"+name+"/password", map[string]any{"password": password}, nil)
	var in struct {
		Token string `json:"token"`
	}
	p.api(t, "POST", "/login", map[string]any{"name": name, "password": password}, &in)
	return in.Token
}

// Every operation of the API, asked by every role: exactly those are let in
// whom the table names. An operation that is added later is in this test.
func TestEveryOperationKnowsItsRoles(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	needs := map[string]rest.Need{rest.Public.String(): rest.Public}
	for _, n := range rest.Needs {
		needs[n.String()] = n
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Need string `json:"x-countersign-need"`
		} `json:"paths"`
	}
	status, text := p.as(t, p.token, "GET", "/api/openapi.json", "")
	if err := json.Unmarshal([]byte(text), &doc); err != nil || status != 200 {
		t.Fatal(status, err)
	}
	asked := 0
	for _, role := range rest.Roles {
		token := p.person(t, "test-"+role, role)
		for path, methods := range doc.Paths {
			for method, op := range methods {
				need, known := needs[op.Need]
				if !known {
					t.Fatalf("%s %s: need %q", method, path, op.Need)
				}
				may := rest.RoleMay(role, need) && (need != rest.Own || rest.RoleMay(role, rest.Write))
				if may && (strings.HasSuffix(path, "/logout") || strings.HasSuffix(path, "/login")) {
					continue
				}
				status, body := p.as(t, token, strings.ToUpper(method), parameter.ReplaceAllString(path, "nothing"), "{}")
				asked++
				refused := status == 403 && (strings.Contains(body, `"role_required"`) || strings.Contains(body, `"not_owner"`))
				owner := need == rest.Own && role == rest.Owner && status == 404 // asked whose it is, and it is not there
				if refused == may && !owner {
					t.Errorf("%s %s as %s: %d %s, may: %t", method, path, role, status, body, may)
				}
			}
		}
	}
	if asked < 400 {
		t.Errorf("only %d questions", asked)
	}
}

// A backup owner may what the owner may, of that agent alone and only with a
// role that may own.
func TestBackupOwnersManageTheirAgent(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	tokens := map[string]string{"ada": p.person(t, "ada", rest.Owner), "bob": p.person(t, "bob", rest.Owner), "vic": p.person(t, "vic", rest.Viewer)}
	for agent, backup := range map[string]string{"one": "bob", "two": "vic", "three": ""} {
		p.api(t, "PUT", "/agents/"+agent, map[string]any{"owner": "ada", "backup": backup, "stage": "production"}, nil)
	}
	for _, c := range []struct {
		who, agent string
		may        bool
	}{{"ada", "one", true}, {"bob", "one", true}, {"bob", "two", false}, {"bob", "three", false}, {"vic", "two", false}} {
		for _, op := range []string{"keys", "runs", "lock", "give"} {
			status, body := p.as(t, tokens[c.who], "POST", "/api/v1/agents/"+c.agent+"/"+op, `{"reason":"a test"`+map[bool]string{true: `,"to":"bob"`}[op == "give"]+`}`)
			refused := status == 403 && (strings.Contains(body, `"role_required"`) || strings.Contains(body, `"not_owner"`))
			if refused == c.may {
				t.Errorf("%s of %s by %s: %d %s", op, c.agent, c.who, status, body)
			}
			if op == "lock" && c.may {
				p.as(t, tokens[c.who], "POST", "/api/v1/agents/"+c.agent+"/unlock", `{"reason":"a test"}`)
			}
		}
	}
}

// Who sees what was said: not a viewer, not another's owner.
func TestContentsAreForThoseWhoMaySeeThem(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	upstream := httptest.NewServer(http.HandlerFunc(echo))
	defer upstream.Close()
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	key := p.company(t)
	p.model(t, "up", "openai", upstream.URL, "sk-upstream-0123456789")
	req, _ := http.NewRequest("POST", p.url+"/llm/up/v1/chat/completions", bytes.NewReader([]byte(`{"model":"m","messages":[{"role":"user","content":"the walrus speaks"}]}`)))
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	var page struct {
		Events []struct {
			ID  string `json:"id"`
			Run string `json:"run"`
		} `json:"events"`
	}
	p.api(t, "GET", "/log/events?q=type:call.intent", nil, &page)
	if len(page.Events) == 0 {
		t.Fatal("no intent")
	}
	event, run := page.Events[0].ID, page.Events[0].Run
	for _, c := range []struct {
		who, role string
		sees      bool
	}{{"vic", rest.Viewer, false}, {"otto", rest.Owner, false}, {"abe", rest.Approver, false}, {"aud", rest.Auditor, true}, {"olga", rest.Owner, true}} {
		token := p.person(t, c.who, c.role)
		for _, path := range []string{"/api/v1/log/events/" + event, "/api/v1/log/runs/" + run} {
			status, body := p.as(t, token, "GET", path, "")
			if status != 200 || strings.Contains(body, "walrus") != c.sees || strings.Contains(body, `"withheld":true`) == c.sees {
				t.Errorf("%s as %s (%s): %d %s", path, c.who, c.role, status, body)
			}
		}
		if status, _ := p.as(t, token, "GET", "/api/v1/log/events?q=walrus", ""); (status == 200) != rest.RoleMay(c.role, rest.Inspect) {
			t.Errorf("search as %s: %d", c.role, status)
		}
	}
}
