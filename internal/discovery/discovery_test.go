package discovery_test

import (
	"encoding/json/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/discovery"
)

// value stands wherever a credential's value may: it must come out nowhere.
const value = "hush5hush5hush5hush5hush5"

func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func silent(t testing.TB, f discovery.Found) {
	t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), value) {
		t.Errorf("a value came out: %s", b)
	}
}

func TestEveryFormatIsReadWithoutItsValues(t *testing.T) {
	for name, c := range map[string]struct{ text, client, target string }{
		".mcp.json":                         {`{"mcpServers":{"x":{"command":"npx","args":["pkg","--token","` + value + `"],"env":{"A_TOKEN":"` + value + `"}}}}`, "claude-code", "npx pkg --token <secret>"},
		".claude.json":                      {`{"projects":{"/p":{"mcpServers":{"x":{"type":"http","url":"https://u:` + value + `@h.example/mcp","headers":{"X-Api-Key":"` + value + `"}}}}}}`, "claude-code", "https://h.example/mcp"},
		"Claude/claude_desktop_config.json": {`{"mcpServers":{"x":{"command":"npx","args":["--api-key=` + value + `"]}}}`, "claude-desktop", "npx --api-key=<secret>"},
		".cursor/mcp.json":                  {`{"mcpServers":{"x":{"url":"https://h.example/mcp?token=` + value + `"}}}`, "cursor", "https://h.example/mcp"},
		".vscode/mcp.json":                  {"{ // c\n\"servers\":{\"x\":{\"type\":\"http\",\"url\":\"https://h.example/mcp\",\"headers\":{\"Authorization\":\"Bearer " + value + "\"}},},}", "vscode", "https://h.example/mcp"},
		"Code/User/settings.json":           {`{"mcp":{"servers":{"x":{"command":"c","args":["` + value + `"]}}}}`, "vscode", "c <secret>"},
		".codeium/windsurf/mcp_config.json": {`{"mcpServers":{"x":{"serverUrl":"https://h.example/mcp","headers":{"Authorization":"` + value + `"}}}}`, "windsurf", "https://h.example/mcp"},
		"zed/settings.json":                 {`{"context_servers":{"x":{"command":{"path":"c","args":["postgres://u:` + value + `@h/db"],"env":{"DSN":"` + value + `"}}}}}`, "zed", "c <secret>"},
		".codex/config.toml":                {"[mcp_servers.x]\nurl = \"https://h.example/mcp\"\nhttp_headers = { Authorization = \"Bearer " + value + "\" }\n", "codex", "https://h.example/mcp"},
		".gemini/settings.json":             {`{"mcpServers":{"x":{"httpUrl":"https://h.example/mcp","headers":{"Authorization":"` + value + `"}}}}`, "gemini", "https://h.example/mcp"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, name, c.text)
			f := discovery.Scan([]string{dir})
			silent(t, f)
			if len(f.Servers) != 1 || len(f.Problems) != 0 {
				t.Fatalf("%+v", f)
			}
			s := f.Servers[0]
			if got := s.URL + strings.Join(s.Command, " "); s.Client != c.client || got != c.target || s.Name != "x" {
				t.Errorf("%+v", s)
			}
			if len(f.Secrets) == 0 {
				t.Error("the credential was not seen")
			}
		})
	}
}

func TestSameValueIsRecognisedAndReferencesAreTold(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/.env", "export API_KEY='"+value+"'\nPLAIN=1\n#TOKEN=x\n")
	write(t, dir, "b/.env.production", "OTHER_TOKEN="+value+"\nREF_TOKEN=${ELSEWHERE}\n")
	write(t, dir, ".gitlab-ci.yml", "variables:\n  DEPLOY_TOKEN: "+value+"\njob:\n  variables:\n    DB_PASSWORD: {value: "+value+", description: x}\n    X_TOKEN: $FROM_GROUP\n")
	write(t, dir, ".github/workflows/ci.yml", "env:\n  A_TOKEN: ${{ secrets.A }}\n  B_TOKEN: "+value+"\n")
	f := discovery.Scan([]string{dir})
	silent(t, f)
	digests, refers := map[string]int{}, map[string]bool{}
	for _, s := range f.Secrets {
		if s.Digest != "" {
			digests[s.Digest]++
		}
		refers[s.Refers] = true
	}
	if len(digests) != 1 {
		t.Errorf("one value in several places is not recognised as one: %+v", f.Secrets)
	}
	for _, r := range []string{"ELSEWHERE", "FROM_GROUP", "A"} {
		if !refers[r] {
			t.Errorf("no reference to %s: %+v", r, f.Secrets)
		}
	}
	for _, s := range discovery.Scan([]string{dir}).Secrets {
		if digests[s.Digest] > 0 {
			t.Error("the digest is the same in every scan: it could be guessed offline")
		}
	}
}

func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	outside := write(t, t.TempDir(), "real.json", `{"mcpServers":{"x":{"command":"c"}}}`)
	if err := os.Symlink(outside, filepath.Join(dir, ".mcp.json")); err != nil {
		t.Skip(err)
	}
	write(t, dir, "big/.mcp.json", strings.Repeat(" ", 1<<20)+"{}")
	write(t, dir, "binary/.env", "A_TOKEN=\x00\x01")
	write(t, dir, "deep/.mcp.json", strings.Repeat("[", 100000))
	write(t, dir, "bomb/.gitlab-ci.yml", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c]\n")
	write(t, dir, "dup/.mcp.json", `{"mcpServers":{},"mcpServers":{}}`)
	write(t, dir, "node_modules/.mcp.json", `{"mcpServers":{"x":{"command":"c"}}}`)
	f := discovery.Scan([]string{dir, filepath.Join(dir, "nowhere"), filepath.Join(dir, ".mcp.json")})
	if len(f.Servers) != 0 {
		t.Errorf("servers %+v", f.Servers)
	}
	said := map[string]bool{}
	for _, p := range f.Problems {
		said[filepath.Base(filepath.Dir(p.File))] = true
	}
	for _, name := range []string{"big", "binary", "deep", "dup"} {
		if !said[name] {
			t.Errorf("nothing is said of %s: %+v", name, f.Problems)
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, name := range []string{".mcp.json", ".codex/config.toml", ".env", ".gitlab-ci.yml", ".github/workflows/x.yml", "zed/settings.json"} {
		f.Add(name, []byte(`{"mcpServers":{"x":{"command":"c","args":["--token","t"]}}}`))
		f.Add(name, []byte("[mcp_servers.x]\ncommand = \"c\"\n"))
		f.Add(name, []byte("variables:\n  A_TOKEN: {value: x}\n"))
		f.Add(name, []byte("A_TOKEN=x"))
		f.Add(name, []byte(`{"a":"\`))
		f.Add(name, []byte("{/*"))
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		names := []string{".mcp.json", ".codex/config.toml", ".env", ".gitlab-ci.yml", ".github/workflows/x.yml", "zed/settings.json"}
		dir := t.TempDir()
		for _, known := range names {
			if known == name {
				write(t, dir, name, string(b))
				discovery.Scan([]string{dir})
			}
		}
	})
}
