package identity_test

import (
	"encoding/json/v2"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
)

// door is the room's API on a real server, used as one person.
type door struct {
	t     *testing.T
	url   string
	token string
}

func (w *world) serve(t *testing.T) string {
	mux := http.NewServeMux()
	w.Routes(rest.New(mux, "test", w.AuthenticateUser, quiet))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// do sends a request and returns the decoded answer; it checks the status.
func (d door) do(status int, method, path, body string) (object map[string]any, text string) {
	d.t.Helper()
	req, err := http.NewRequest(method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Countersign-Reason", "by header")
	if d.token != "" {
		req.Header.Set("Authorization", "Bearer "+d.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	if resp.StatusCode != status {
		d.t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, b)
	}
	if strings.HasPrefix(string(b), "{") {
		if err := json.Unmarshal(b, &object); err != nil {
			d.t.Fatal(err)
		}
	}
	return object, string(b)
}

func TestAPI(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, token, err := w.IssueToken(ctx, w.admin, "", "test", 0)
		w.must(err)
		url := w.serve(t)
		root, nobody := door{t, url, token}, door{t, url, ""}

		nobody.do(401, "GET", "/api/v1/agents", "")
		nobody.do(401, "GET", "/api/v1/me", "")
		root.do(200, "PUT", "/api/v1/users/eva", `{"role":"viewer","email":"eva@example.com"}`)
		root.do(204, "PUT", "/api/v1/users/eva/password", `{"password":"correct horse battery"}`)
		nobody.do(401, "POST", "/api/v1/login", `{"name":"eva","password":"wrong"}`)
		session, _ := nobody.do(200, "POST", "/api/v1/login", `{"name":"eva","password":"correct horse battery"}`)
		eva := door{t, url, session["token"].(string)}
		if me, _ := eva.do(200, "GET", "/api/v1/me", ""); me["name"] != "eva" || me["write"] != false {
			t.Errorf("me: %v", me)
		}
		eva.do(403, "PUT", "/api/v1/agents/new", `{"owner":"eva","stage":"staging"}`)
		eva.do(403, "PUT", "/api/v1/users/eva", `{"role":"admin"}`)
		eva.do(403, "GET", "/api/v1/tokens?user=root", "")
		mine, _ := eva.do(201, "POST", "/api/v1/tokens", `{"name":"ci","expires_in":"7d"}`)
		if _, list := eva.do(200, "GET", "/api/v1/tokens", ""); strings.Count(list, `"id"`) != 2 || strings.Contains(list, mine["token"].(string)) {
			t.Errorf("tokens: %s", list)
		}
		eva.do(204, "POST", "/api/v1/logout", "")
		eva.do(401, "GET", "/api/v1/me", "")
		door{t, url, mine["token"].(string)}.do(204, "DELETE", "/api/v1/tokens/"+mine["id"].(string), "")

		root.do(200, "PUT", "/api/v1/teams/ops", `{"members":["eva"]}`)
		made, _ := root.do(200, "PUT", "/api/v1/agents/new", `{"owner":"eva","team":"ops","stage":"staging","labels":{"a":"b"}}`)
		if made["status"] != "active" || made["id"] == "" {
			t.Errorf("agent: %v", made)
		}
		root.do(422, "PUT", "/api/v1/agents/new", `{"owner":"eva","stage":"staging","admin":true}`)
		root.do(400, "PUT", "/api/v1/agents/New", `{"owner":"eva","stage":"staging"}`)
		root.do(404, "GET", "/api/v1/agents/nobody", "")
		root.do(400, "POST", "/api/v1/agents/new/keys", `{"expires_in":"91d"}`)
		root.do(400, "POST", "/api/v1/agents/new/keys", `{"expires_in":"-1h"}`)
		key, _ := root.do(201, "POST", "/api/v1/agents/new/keys", `{"expires_in":"7d"}`)
		w.accepts("the key", key["key"].(string))
		next, _ := root.do(201, "POST", "/api/v1/agents/new/keys/"+key["id"].(string)+"/rotate", `{"overlap":"0"}`)
		w.refuses("the old key", key["key"].(string), identity.ErrExpired)
		root.do(409, "POST", "/api/v1/agents/new/keys/"+key["id"].(string)+"/rotate", `{}`)
		root.do(404, "DELETE", "/api/v1/agents/bot/keys/"+next["id"].(string), "")
		if _, list := root.do(200, "GET", "/api/v1/agents", ""); !strings.Contains(list, next["prefix"].(string)) || strings.Contains(list, next["key"].(string)) {
			t.Errorf("agents: %s", list)
		}
		root.do(204, "DELETE", "/api/v1/agents/new/keys/"+next["id"].(string), "")
		w.refuses("the revoked key", next["key"].(string), identity.ErrRevoked)
		if _, list := root.do(200, "GET", "/api/v1/agents/new/keys", ""); strings.Count(list, `"id"`) != 2 || !strings.Contains(list, "revoked") {
			t.Errorf("keys: %s", list)
		}

		run, _ := root.do(201, "POST", "/api/v1/agents/new/runs", `{"expires_in":"10m"}`)
		w.accepts("the run", run["token"].(string))
		root.do(204, "POST", "/api/v1/runs/"+run["run"].(string)+"/end", `{}`)
		w.refuses("the ended run", run["token"].(string), identity.ErrRevoked)

		if a, _ := root.do(200, "POST", "/api/v1/agents/new/suspend", `{"reason":"odd"}`); a["status"] != "suspended" {
			t.Errorf("suspended: %v", a)
		}
		root.do(403, "POST", "/api/v1/agents/new/runs", `{}`)
		root.do(200, "POST", "/api/v1/agents/new/resume", `{}`) // the reason is in the header
		root.do(200, "POST", "/api/v1/agents/new/owner", `{"owner":"ada"}`)
		root.do(409, "DELETE", "/api/v1/teams/ops", "")
		root.do(409, "DELETE", "/api/v1/users/ada", "")
		root.do(204, "DELETE", "/api/v1/agents/new", "")
		root.do(204, "DELETE", "/api/v1/teams/ops", "")
		root.do(204, "DELETE", "/api/v1/users/eva?reason=left", "")
		root.do(409, "DELETE", "/api/v1/users/root", "")
		for _, list := range []string{"users", "teams", "agents", "tokens"} {
			if _, body := root.do(200, "GET", "/api/v1/"+list, ""); !strings.HasPrefix(body, "[") {
				t.Errorf("%s: %s", list, body)
			}
		}
		found := w.events()
		if last := found[len(found)-1]; last.Reason != "left" || last.Actor.Name != "root" {
			t.Errorf("the last event: %+v", last)
		}
	})
}
