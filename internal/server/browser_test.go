package server_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/approvals/statement"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// hostile is put into every field that takes text.
const hostile = "<img src=x onerror=pwned=1>\u202egnp.exe [link](https://evil.example) {{.}} ' \" \u200b"

// The console in a real browser: each page's main task, two people at once, the
// keyboard alone, accessibility in both colours, a phone, hostile text.
func TestConsoleInABrowser(t *testing.T) {
	if testing.Short() || os.Getenv("COUNTERSIGN_TEST_BROWSER") == "" {
		t.Skip("needs Chromium and Node: run make test-browser")
	}
	chromium, dir := aChromium(t)
	p, key := heldDesk(t, t.TempDir(), storagetest.SQLite(t))
	hostileTown(t, p)
	run(t, exec.Command("node", "pages.mjs"), dir, "CHROMIUM="+chromium, "URL="+p.url, "TOKEN="+p.token, "AGENT_KEY="+key)
}

// A first start: from the printed link to the first governed call, in the browser.
func TestConsoleSetsUpInABrowser(t *testing.T) {
	if testing.Short() || os.Getenv("COUNTERSIGN_TEST_BROWSER") == "" {
		t.Skip("needs Chromium and Node: run make test-browser")
	}
	chromium, dir := aChromium(t)
	const token = "first-start-token-0123456789"
	desk := serveHelpdesk(t, token)
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	run(t, exec.Command("node", "first.mjs"), dir, "CHROMIUM="+chromium, "URL="+p.url, "TOKEN="+p.token, "DESK="+desk, "DESK_TOKEN="+token)
}

// Passkeys, with Chromium's own authenticator; then the log says whose they were.
func TestPasskeysInABrowser(t *testing.T) {
	if testing.Short() || os.Getenv("COUNTERSIGN_TEST_BROWSER") == "" {
		t.Skip("needs Chromium and Node: run make test-browser")
	}
	chromium, dir := aChromium(t)
	p, key := heldDesk(t, t.TempDir(), storagetest.SQLite(t))
	for _, name := range []string{"fiona", "carl"} {
		p.api(t, "PUT", "/users/"+name, map[string]any{"role": "approver"}, nil)
		p.api(t, "PUT", "/users/"+name+"/password", map[string]any{"password": "correct horse battery"}, nil)
	}
	p.api(t, "PUT", "/groups/deciders", map[string]any{"members": []string{"fiona", "carl"}}, nil)
	p.api(t, "PUT", "/policies/held", map[string]any{"text": `@id("held") @approval("deciders") @strength("passkey")
forbid (principal, action == Action::"helpdesk/get_ticket", resource);`}, nil)
	run(t, exec.Command("node", "passkey.mjs"), dir, "CHROMIUM="+chromium, "URL="+strings.Replace(p.url, "127.0.0.1", "localhost", 1), "TOKEN="+p.token, "AGENT_KEY="+key)

	var verified struct {
		OK bool `json:"ok"`
	}
	if p.api(t, "POST", "/log/verify", nil, &verified); !verified.OK {
		t.Error("the log is not whole")
	}
	var rows []approvalRow
	p.api(t, "GET", "/approvals?state=approved", nil, &rows)
	var shown struct {
		Decisions []struct {
			Statement string `json:"statement"`
			Signature string `json:"signature"`
		} `json:"decisions"`
	}
	var signer struct {
		Key []byte `json:"key"`
	}
	p.api(t, "GET", "/approvals/"+rows[0].ID, nil, &shown)
	p.api(t, "GET", "/approvals/key", nil, &signer)
	said, err := statement.Verify(shown.Decisions[0].Statement, shown.Decisions[0].Signature, signer.Key)
	if err != nil || said.Passkey == nil || said.Person.Name != "fiona" || said.Passkey.RP != "localhost" {
		t.Errorf("%v %+v", err, said)
	}
}

// hostileTown fills what people and agents write with hostile text, and makes
// fiona, who decides too.
func hostileTown(t *testing.T, p *process) {
	t.Helper()
	const password = "correct horse battery"
	p.api(t, "PUT", "/users/fiona", map[string]any{"role": "approver", "display_name": "Fiona <b>Brandt</b>"}, nil)
	p.api(t, "PUT", "/users/fiona/password", map[string]any{"password": password}, nil)
	p.api(t, "PUT", "/users/admin/password", map[string]any{"password": password}, nil)
	p.api(t, "PUT", "/groups/deciders", map[string]any{"members": []string{"admin", "fiona"}, "description": "<b>who decides</b>"}, nil)
	p.api(t, "PUT", "/agents/worker", map[string]any{"owner": "olga", "backup": "ben", "stage": "development", "purpose": "<img src=x onerror=pwned=1> [link](https://evil.example)"}, nil)
	p.api(t, "PUT", "/log/searches/mine", map[string]any{"query": "decision:deny \"<img src=x>\""}, nil)
}

// run runs a script of a browser and fails the test with what it says.
func run(t *testing.T, cmd *exec.Cmd, dir string, env ...string) {
	t.Helper()
	cmd.Dir, cmd.Env = dir, append(append(os.Environ(), env...), "HOSTILE="+hostile)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

// aChromium returns a Chromium and the folder of the scripts, or skips the test.
func aChromium(t *testing.T) (chromium, dir string) {
	t.Helper()
	chromium = os.Getenv("CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); chromium == "" && err == nil {
			chromium = path
		}
	}
	if chromium == "" {
		t.Skip("no Chromium: run scripts/browser.sh, or set CHROMIUM")
	}
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no Node.js: install it to run the browser")
	}
	dir, err := filepath.Abs("../../test/browser")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadDir(dir); err != nil { // so that a result is not kept when a script changes
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err != nil {
		cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
	return chromium, dir
}

// The first view is small: what a browser fetches to show Now, compressed.
func TestConsoleIsSmall(t *testing.T) {
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	v := p.visit(t)
	if resp := v.signIn(map[string][]string{"token": {p.token}}); resp.StatusCode != http.StatusSeeOther {
		t.Fatal(resp.Status)
	}
	resp, page := v.do("GET", "/", nil, "Accept-Encoding", "gzip")
	if resp.Header.Get("Content-Encoding") != "gzip" {
		t.Error("the page is not compressed")
	}
	total := len(page)
	_, page = v.do("GET", "/", nil)
	for _, part := range strings.Split(page, `"`) {
		if !strings.HasPrefix(part, "/assets/") {
			continue
		}
		resp, body := v.do("GET", part, nil, "Accept-Encoding", "gzip")
		if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %s %v", part, resp.Status, resp.Header)
		}
		total += len(body)
	}
	t.Logf("the first view is %d bytes", total)
	if total > 150<<10 {
		t.Errorf("the first view is %d bytes", total)
	}
}
