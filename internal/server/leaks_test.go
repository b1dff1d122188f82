package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json/v2"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/secrets/leaktest"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

type leakAnswer struct {
	Received int `json:"received"`
	Matches  []struct {
		Kind   string `json:"kind"`
		Object string `json:"object"`
		ID     string `json:"id"`
		Lock   string `json:"lock"`
		Done   string `json:"done"`
	} `json:"matches"`
}

func leak(value string) map[string]any {
	return map[string]any{"source": "test", "items": []map[string]any{{"value": value, "where": "repo/.env:3"}}}
}

// Reported, a credential of ours is dead on every replica and its streams are
// cut; an upstream's secret is a critical finding; the owner is told; nothing of
// it is written anywhere.
func TestALeakIsAnswered(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		const upstreamKey = "Zq7-upstream-model-key-77xWv"
		upstream := serveModel(t, upstreamKey)
		all := replicas(t, dsn, 2)
		p := all[0]
		known := leaktest.Secrets{"the agent's key": p.company(t), "the model's key": upstreamKey}
		p.model(t, "openai", "openai", upstream, upstreamKey)
		var run struct {
			Token string `json:"token"`
		}
		p.api(t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "1h"}, &run)
		known["the run's token"] = run.Token
		known["an access token"] = p.accessToken(t, "worker", all, "/llm/openai")
		bystander := p.accessToken(t, "worker", all, "/llm/openai")
		for what, text := range map[string]string{
			"the agent's key": "export COUNTERSIGN_KEY='%s' # do not commit", "the run's token": `{"mcp":{"headers":{"Authorization":"Bearer %s"}}}`,
			"an access token": "curl -H 'Authorization: Bearer %s'",
		} {
			secret := known[what]
			var streams []<-chan struct{}
			for _, r := range all {
				r.eventuallyAllowed(t, secret)
				lines := r.endless(t, secret)
				if !lines.Scan() {
					t.Fatal("the stream did not begin")
				}
				streams = append(streams, drained(lines))
			}
			var answer leakAnswer
			p.api(t, "POST", "/leaks", leak(fmt.Sprintf(text, secret)), &answer)
			if len(answer.Matches) != 1 || answer.Matches[0].Object != "agent/worker" || answer.Matches[0].Done != "revoked" || (answer.Matches[0].Lock == "") != (what == "an access token") {
				t.Fatalf("%s: %+v", what, answer)
			}
			for i, ended := range streams {
				select {
				case <-ended:
				case <-time.After(30 * time.Second):
					t.Fatalf("%s: the stream on replica %d goes on", what, i)
				}
			}
			if answer.Matches[0].Lock != "" {
				p.settled(t, answer.Matches[0].Lock)
			}
			for i, r := range all {
				if status, body := r.ask(t, secret); status == 200 {
					t.Errorf("%s is good on replica %d: %s", what, i, body)
				}
			}
			p.api(t, "POST", "/leaks", leak(secret), &answer)
			if len(answer.Matches) != 1 || answer.Matches[0].Done != "dead" {
				t.Errorf("%s again: %+v", what, answer)
			}
		}
		for i, r := range all { // only what leaked is dead
			if status, body := r.ask(t, bystander); status != 200 {
				t.Errorf("the agent's other token on replica %d: %d %s", i, status, body)
			}
		}
		var answer leakAnswer
		p.api(t, "POST", "/leaks", leak("OPENAI_API_KEY="+upstreamKey), &answer)
		if len(answer.Matches) != 1 || answer.Matches[0].Object != "secret/openai-key" || answer.Matches[0].Done != "by_hand" {
			t.Errorf("the upstream's: %+v", answer)
		}
		p.api(t, "POST", "/leaks", leak("csk_nothing-of-ours and password=hunter22"), &answer)
		if answer.Received != 1 || len(answer.Matches) != 0 {
			t.Errorf("nothing: %+v", answer)
		}
		var found []struct {
			Object   string `json:"object"`
			Severity string `json:"severity"`
			Detail   string `json:"detail"`
		}
		p.api(t, "GET", "/findings?rule=credential.leaked", nil, &found)
		if len(found) != 2 || !strings.Contains(found[0].Detail+found[1].Detail, "Its owner is olga") || !strings.Contains(found[0].Detail, "repo/.env:3") {
			t.Errorf("findings: %+v", found)
		}
		for _, r := range all {
			r.stop(t)
			for name, secret := range known {
				if strings.Contains(r.stderr.String(), secret) {
					t.Errorf("%s is in the server's output", name)
				}
			}
		}
		leaktest.Bytes(t, known, "the database", dump(t, dsn))
	})
}

// accessToken registers a key for an agent and gets a token for a door with it,
// good at every replica: they must share one issuer.
func (p *process) accessToken(t testing.TB, agent string, all []*process, door string) string {
	t.Helper()
	key, err := client.NewAgentKey(p.url, agent)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.JWK.Public().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.New(p.url, p.token).AddClientKey(t.Context(), agent, client.ClientKeySpec{JWK: public}); err != nil {
		t.Fatal(err)
	}
	token, err := client.New(p.url, "").AccessToken(t.Context(), key, "read write irreversible", p.url+door)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		r.eventuallyAllowed(t, token)
	}
	return token
}

// Who may not know anyway learns nothing by reporting, and not how often.
func TestReportingIsNoOracle(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	key := p.company(t)
	viewer := p.person(t, "vic", rest.Viewer)
	report := func(token, value string) (int, string) {
		b, _ := json.Marshal(leak(value))
		return p.as(t, token, "POST", "/api/v1/leaks", string(b))
	}
	hit, one := report(viewer, key)
	miss, other := report(viewer, "csk_"+strings.Repeat("x", len(key)-4))
	if hit != 200 || hit != miss || one != other {
		t.Errorf("a hit: %d %s, a miss: %d %s", hit, one, miss, other)
	}
	if status, _ := p.ask(t, key); status != 401 {
		t.Errorf("the reported key: %d", status)
	}
	items := []map[string]any{}
	for range 600 {
		items = append(items, map[string]any{"value": "a guess at a secret"})
	}
	b, _ := json.Marshal(map[string]any{"source": "x", "items": items})
	last := 0
	for range 3 {
		last, _ = p.as(t, viewer, "POST", "/api/v1/leaks", string(b))
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("1800 guesses: %d", last)
	}
	for _, bad := range []string{`{"source":"x","items":[]}`, `{"source":"x","items":[{"value":""}]}`, `{"source":"x","items":[{"value":"` + strings.Repeat("x", 70<<10) + `"}]}`} {
		if status, _ := p.as(t, p.token, "POST", "/api/v1/leaks", bad); status != 400 {
			t.Errorf("%.60s: %d", bad, status)
		}
	}
}

// A canary is refused like any unknown credential, at every door, and told.
func TestCanaries(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		p := start(t, t.TempDir(), dsn, "")
		p.company(t)
		known := leaktest.Secrets{}
		for kind, prefix := range map[string]string{"key": "csk_", "token": "csu_"} {
			var made struct {
				Value string `json:"value"`
			}
			p.api(t, "POST", "/canaries/wiki-"+kind, map[string]any{"kind": kind, "where": "the runbook"}, &made)
			if !strings.HasPrefix(made.Value, prefix) {
				t.Fatalf("the canary of kind %s does not look like one", kind)
			}
			known["the canary like a "+kind] = made.Value
			p.presents(t, made.Value, prefix+strings.Repeat("0", 43)+"zzzzzz")
		}
		var found []struct {
			Title    string `json:"title"`
			Severity string `json:"severity"`
			Detail   string `json:"detail"`
		}
		for deadline := time.Now().Add(30 * time.Second); len(found) < 2 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			p.api(t, "GET", "/findings?rule=canary.used", nil, &found)
		}
		if len(found) != 2 || found[0].Severity != "critical" || !strings.Contains(found[0].Title, "from 127.0.0.1") || !strings.Contains(found[0].Detail, "the runbook") {
			t.Errorf("findings: %+v", found)
		}
		var list []struct {
			Kind string `json:"kind"`
			Uses int    `json:"uses"`
		}
		p.api(t, "GET", "/canaries", nil, &list)
		if len(list) != 2 || list[0].Uses != 1 || list[0].Kind != "key" || list[1].Uses != 1 || list[1].Kind != "token" { // one address, told once
			t.Errorf("canaries: %+v", list)
		}
		if status, body := p.as(t, p.token, "POST", "/api/v1/canaries/x", `{"kind":"password"}`); status != 422 {
			t.Errorf("a canary of no kind: %d %s", status, body)
		}
		p.stop(t)
		leaktest.Bytes(t, known, "the database", dump(t, dsn))
	})
}

// presents shows a canary and an unknown credential at every door: the answers
// differ in nothing.
func (p *process) presents(t *testing.T, canary, unknown string) {
	t.Helper()
	for _, path := range []string{"/llm/openai/v1/chat/completions", "/mcp/ledger", "/mcp", "/api/v1/agents"} {
		method := "POST"
		if strings.HasPrefix(path, "/api") {
			method = "GET"
		}
		a, one := p.as(t, canary, method, path, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		b, other := p.as(t, unknown, method, path, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		if a != 401 || a != b || len(one) != len(other) {
			t.Errorf("%s: %d %s, an unknown one: %d %s", path, a, one, b, other)
		}
	}
}

// A canary trips at each door by itself, so no door overlooks it.
func TestEveryDoorKnowsCanaries(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.company(t)
	form := func(path, field, value string) int {
		resp, err := http.PostForm(p.url+path, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, field: {value}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"}})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for door, show := range map[string]func(value string){
		"llm":     func(v string) { p.as(t, v, "POST", "/llm/openai/v1/chat/completions", `{}`) },
		"mcp":     func(v string) { p.as(t, v, "POST", "/mcp/ledger", `{}`) },
		"api":     func(v string) { p.as(t, v, "GET", "/api/v1/agents", "") },
		"subject": func(v string) { form("/oauth2/token", "subject_token", v) },
		"revoke":  func(v string) { form("/oauth2/revoke", "token", v) },
	} {
		for _, kind := range []string{"key", "token"} {
			var made struct {
				Value string `json:"value"`
			}
			name := door + "-" + kind
			p.api(t, "POST", "/canaries/"+name, map[string]any{"kind": kind}, &made)
			show(made.Value)
			var found []struct {
				Object string `json:"object"`
			}
			told := func() bool {
				p.api(t, "GET", "/findings?rule=canary.used", nil, &found)
				return slices.ContainsFunc(found, func(f struct {
					Object string `json:"object"`
				}) bool {
					return f.Object == "canary/"+name
				})
			}
			for deadline := time.Now().Add(20 * time.Second); !told(); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Errorf("a %s shown at %s was overlooked", kind, door)
					break
				}
			}
		}
	}
}

// GitHub's alerts are taken with its signature only.
func TestGitHubAlerts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	var looks atomic.Int64
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		looks.Add(1)
		b, _ := json.Marshal(map[string]any{"public_keys": []map[string]any{{"key_identifier": "k1", "key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "is_current": true}}})
		w.Write(b)
	}))
	defer keys.Close()
	p := start(t, t.TempDir(), storagetest.SQLite(t), "", "COUNTERSIGN_LEAKS_GITHUB_KEYS="+keys.URL)
	agent := p.company(t)
	body := `[{"token":"` + agent + `","type":"countersign_agent_key","url":"https://github.com/a/b/blob/c/.env","source":"content"}]`
	sign := func(body string) string {
		sum := sha256.Sum256([]byte(body))
		sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(sig)
	}
	send := func(id, signature, body string) int {
		req, _ := http.NewRequest("POST", p.url+"/api/v1/leaks/github", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Github-Public-Key-Identifier", id)
		req.Header.Set("Github-Public-Key-Signature", signature)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	for name, c := range map[string][3]string{
		"no signature": {"k1", "", body}, "another body": {"k1", sign(body), strings.Replace(body, "content", "commit", 1)},
		"another key": {"k2", sign(body), body}, "no key": {"", sign(body), body}, "garbage": {"k1", "!!", body},
	} {
		if status := send(c[0], c[1], c[2]); status != 403 {
			t.Errorf("%s: %d", name, status)
		}
	}
	for i := range 20 {
		send(fmt.Sprint("unknown-", i), sign(body), body)
	}
	if looks.Load() > 2 {
		t.Errorf("%d looks at GitHub's keys", looks.Load())
	}
	if status, _ := p.ask(t, agent); status == 401 {
		t.Error("an unsigned alert revoked the key")
	}
	if status := send("k1", sign(body), body); status != 204 {
		t.Errorf("signed: %d", status)
	}
	if status, _ := p.ask(t, agent); status != 401 {
		t.Errorf("the key after it: %d", status)
	}
	off := start(t, t.TempDir(), storagetest.SQLite(t), "")
	if status, _ := off.as(t, "", "POST", "/api/v1/leaks/github", body); status != 404 {
		t.Errorf("not configured: %d", status)
	}
}

// BenchmarkStopLeak measures from the report of a leaked key to the last of
// its streams cut.
func BenchmarkStopLeak(b *testing.B) {
	dsn := storagetest.SQLite(b)
	if os.Getenv(storagetest.Env) != "" {
		dsn = storagetest.Postgres(b)
	}
	upstream := serveModel(b, "bench-model-key-0123456789")
	all := replicas(b, dsn, 3)
	p := all[0]
	p.company(b)
	p.model(b, "openai", "openai", upstream, "bench-model-key-0123456789")
	fresh := func() string {
		var key struct {
			Key string `json:"key"`
		}
		p.api(b, "POST", "/agents/worker/keys", map[string]any{}, &key)
		return key.Key
	}
	b.Run("access token", func(b *testing.B) {
		key, err := client.NewAgentKey(p.url, "worker")
		if err != nil {
			b.Fatal(err)
		}
		public, err := key.JWK.Public().MarshalJSON()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := client.New(p.url, p.token).AddClientKey(b.Context(), "worker", client.ClientKeySpec{JWK: public}); err != nil {
			b.Fatal(err)
		}
		token := func() string {
			out, err := client.New(p.url, "").AccessToken(b.Context(), key, "read write irreversible", p.url+"/llm/openai")
			if err != nil {
				b.Fatal(err)
			}
			return out
		}
		measureStops(b, "stop-leak-token", all, token, func(credential string) func() {
			p.api(b, "POST", "/leaks", leak(credential), nil)
			return func() {}
		})
	})
	b.Run("report", func(b *testing.B) {
		measureStops(b, "stop-leak", all, fresh, func(credential string) func() {
			p.api(b, "POST", "/leaks", leak(credential), nil)
			return func() {}
		})
	})
}
