package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/cli"
)

func TestLastMessage(t *testing.T) {
	for _, tc := range []struct{ name, prompt, role, text string }{
		{"chat", `[{"role":"system","content":"be kind"},{"role":"user","content":"hello"}]`, "user", "hello"},
		{"parts", `[{"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]}]`, "user", "one two"},
		{"tool result", `[{"role":"user","content":[{"type":"tool_result","tool_use_id":"x","content":[{"type":"text","text":"T-1"}]}]}]`, "user", "T-1"},
		{"tool", `[{"role":"tool","tool_call_id":"x","content":"T-1"}]`, "tool", "T-1"},
		{"responses", `[{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]},{"type":"function_call_output","output":"done"}]`, "function_call_output", "done"},
		{"string", `"just this"`, "", "just this"},
		{"cut", `[{"role":"user","content":"hel`, "", `[{"role":"user","content":"hel`},
		{"empty", `[]`, "", ``},
	} {
		if role, text := cli.LastMessage(tc.prompt); role != tc.role || text != tc.text {
			t.Errorf("%s: %q %q", tc.name, role, text)
		}
	}
}

func TestResultText(t *testing.T) {
	for _, tc := range []struct{ name, answer, want string }{
		{"json", `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"T-1"}]}}`, "T-1"},
		{"stream", "event: message\ndata: {\"method\":\"notifications/progress\"}\n\nevent: message\ndata: {\"id\":1,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"T-2\"}]}}\n\n", "T-2"},
		{"error", `{"id":1,"error":{"code":-32602,"message":"no such tool"}}`, "no such tool"},
		{"cut", `{"jsonrpc":"2.0","result":{"con`, `{"jsonrpc":"2.0","result":{"con`},
	} {
		if got := cli.ResultText(tc.answer); got != tc.want {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

func TestBriefShowsEveryName(t *testing.T) {
	got := cli.Brief(`{"body":"` + strings.Repeat("x", 500) + `","to":"attacker@evil.example"}`)
	if !strings.HasPrefix(got, `body="xxx`) || !strings.HasSuffix(got, ` to="attacker@evil.example"`) || len(got) > 150 {
		t.Errorf("%s", got)
	}
	if cli.Brief("not JSON") != "not JSON" {
		t.Error("what is no JSON is not shown as it is")
	}
}

func TestInert(t *testing.T) {
	for in, want := range map[string]string{
		"plain äöü 漢": "plain äöü 漢", "two\nlines\tand": "two lines and", "\x1b[31mred": "\ufffd[31mred", "a\u202eb": "a\ufffdb", "zero\u200bwidth": "zero\ufffdwidth",
		"bell\a": "bell\ufffd", "c1\u009b31m": "c1\ufffd31m", "bad\xff": "bad\ufffd",
	} {
		if got := cli.Inert(in, 0); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	if got := cli.Inert("abcdef", 4); got != "abc…" {
		t.Errorf("%q", got)
	}
	if got := cli.InertLines("a\n\x1bb"); got != "a\n\ufffdb" {
		t.Errorf("%q", got)
	}
}

func FuzzForeignText(f *testing.F) {
	f.Add(`[{"role":"user","content":[{"type":"text","text":"x"}]}]`)
	f.Add("data: {\"result\":{\"content\":[[[[\"x\"]]]]}}\n")
	f.Add("\x1b]0;title\a\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		cli.LastMessage(s)
		cli.ResultText(s)
		for _, text := range []string{cli.Inert(s, 0), cli.Brief(s), cli.Inert(cli.ResultText(s), 20)} {
			for _, r := range text {
				if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
					t.Fatalf("%q holds %q", text, r)
				}
			}
			if !utf8.ValidString(text) {
				t.Fatalf("%q is not UTF-8", text)
			}
		}
	})
}

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"": {}, "36h": now.Add(36 * time.Hour), "90d": now.Add(90 * 24 * time.Hour), "2027-01-31T12:00:00Z": time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC),
	} {
		if got, err := cli.Expiry(in, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v %v", in, got, err)
		}
	}
	for _, in := range []string{"soon", "-1h", "0d", "-3d", "2027-01-31", "99999999999d"} {
		if got, err := cli.Expiry(in, now); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadFiles(t *testing.T) {
	dir := write(t, map[string]string{"a.yaml": "a", "b/c.cedar": "c", "b/d.yml": "d", "b/e_test.yaml": "e", ".git/f.yaml": "f", "g.txt": "g", "b/.h.yaml": "h"})
	files, err := cli.ReadFiles([]string{dir, "-"}, strings.NewReader("from standard input"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, strings.TrimPrefix(f.Name, filepath.ToSlash(dir)+"/")+"="+f.Text)
	}
	if strings.Join(got, " ") != "a.yaml=a b/c.cedar=c b/d.yml=d stdin.yaml=from standard input" {
		t.Errorf("%v", got)
	}
	for name, paths := range map[string][]string{
		"nothing there": {filepath.Join(dir, "nowhere")}, "no resources": {write(t, map[string]string{"x.txt": ""})},
		"too large": {filepath.Join(write(t, map[string]string{"x.yaml": strings.Repeat("#", 1<<20+1)}), "x.yaml")},
		"binary":    {filepath.Join(write(t, map[string]string{"x.yaml": "a\x00b"}), "x.yaml")},
	} {
		if _, err := cli.ReadFiles(paths, strings.NewReader("")); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

const secretDocuments = `kind: Secret
name: one
spec: {owner: sam, connection: c, from: {env: ONE}}
---
kind: Secret
name: two
spec: {owner: sam, connection: c, from: {file: two.key}}
---
kind: Secret
name: three
spec: {owner: sam, connection: c, from: {env: THREE}}
---
kind: Secret
name: four
state: absent
---
kind: [wrong]
name: five
---
kind: Agent
name: six
spec: {from: {env: ONE}}
---
kind: Secret
name: seven
spec: {from: {env: ONE, file: two.key}}
`

func TestSecretsAreFoundHere(t *testing.T) {
	dir := write(t, map[string]string{"s.yaml": secretDocuments, "two.key": "value two\n"})
	files, err := cli.ReadFiles([]string{dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	found, err := cli.Sources(files, func(name string) string { return map[string]string{"ONE": "value one"}[name] })
	if err != nil {
		t.Fatal(err)
	}
	values, missing := found.Values()
	if len(values) != 2 || values["one"] != "value one" || values["two"] != "value two" {
		t.Errorf("%v", values)
	}
	if len(missing) != 1 || !strings.Contains(missing[0], "THREE is not set") {
		t.Errorf("%v", missing)
	}
}

func FuzzSources(f *testing.F) {
	f.Add(secretDocuments)
	f.Add("a: &a [*a]\n---\nkind: Secret\n<<: *a")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file") {
			return // it would read files
		}
		found, err := cli.Sources([]client.NamedText{{Name: "x.yaml", Text: text}}, func(string) string { return "v" })
		if err != nil {
			t.Fatal(err)
		}
		found.Values()
	})
}

func TestReadCases(t *testing.T) {
	dir := write(t, map[string]string{
		"good_test.yaml": "- {name: a, agent: x, tool: c/t, args: {n: 12400, big: 9007199254740993, s: '7', l: [1, true, null], o: {k: 1.5}}, expect: deny, by: [p]}\n",
		"unknown.yaml":   "- {name: a, agnt: x}\n", "empty.yaml": "", "map.yaml": "name: a\n", "broken.yaml": "- {name: [\n",
	})
	cases, err := cli.ReadCases(filepath.Join(dir, "good_test.yaml"))
	if err != nil || len(cases) != 1 {
		t.Fatalf("%v %v", cases, err)
	}
	for name, want := range map[string]string{"n": "12400", "big": "9007199254740993", "s": `"7"`, "l": "[1,true,null]", "o": `{"k":1.5}`} {
		if got := string(cases[0].Args[name]); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, name := range []string{"unknown.yaml", "empty.yaml", "map.yaml", "broken.yaml", "nowhere.yaml"} {
		_, err := cli.ReadCases(filepath.Join(dir, name))
		if err == nil || strings.Contains(err.Error(), "cli.") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQuoted(t *testing.T) {
	for in, want := range map[string]string{"/a/b-c_d.e": "/a/b-c_d.e", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'"} {
		if got := cli.Quoted(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
