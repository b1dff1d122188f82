package console

import (
	"crypto/sha256"
	"encoding/hex"
	"html/template"
	"os"
	"strings"
	"testing"
	"text/template/parse"
)

func TestTextIsInert(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                       "plain",
		`<script>alert(1)</script>`:   "&lt;script&gt;alert(1)&lt;/script&gt;",
		"a\u202eb":                    `a<span class="odd">⟨U+202E⟩</span>b`,
		"two\nlines":                  `two<span class="odd">⟨U+000A⟩</span>lines`,
		"zero\u200bwidth":             `zero<span class="odd">⟨U+200B⟩</span>width`,
		"שלום":                        "<bdi>שלום</bdi>",
		"\xff":                        "\uFFFD",
		"https://evil.example/[x](y)": "https://evil.example/[x](y)",
	} {
		if got := text(in); got != template.HTML(want) {
			t.Errorf("%q: %q", in, got)
		}
	}
	if got := lines("a\n\tb\u2066"); got != "a\n\tb"+`<span class="odd">⟨U+2066⟩</span>` {
		t.Errorf("%q", got)
	}
	if got := string(text(strings.Repeat("é", 500)).(template.HTML)); !strings.Contains(got, "100 more characters") || strings.Count(got, "é") != mostText {
		t.Errorf("a long text is not cut: %q", got)
	}
}

// What an agent wrote ends in no attribute as markup.
func TestDottedNamesAreInertToo(t *testing.T) {
	if got, want := string(dotted("a.<b>\u202e.c")), `a.<wbr>&lt;b&gt;<span class="odd">⟨U+202E⟩</span>.<wbr>c`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTemplatesPrintNothingRaw(t *testing.T) {
	c, err := New(Options{Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	for name, page := range c.templates {
		for _, part := range page.Templates() {
			if part.Tree == nil {
				continue
			}
			walk(part.Tree.Root, func(n *parse.ActionNode) {
				if len(n.Pipe.Decl) == 0 && !strings.Contains(n.String(), "| text") {
					t.Errorf("%s: %s is printed without text", name, n)
				}
			})
		}
	}
}

func walk(n parse.Node, fn func(*parse.ActionNode)) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, c := range n.Nodes {
				walk(c, fn)
			}
		}
	case *parse.ActionNode:
		fn(n)
	case *parse.IfNode:
		walk(n.List, fn)
		walk(n.ElseList, fn)
	case *parse.RangeNode:
		walk(n.List, fn)
		walk(n.ElseList, fn)
	case *parse.WithNode:
		walk(n.List, fn)
		walk(n.ElseList, fn)
	}
}

// Vendored files are the published ones, byte for byte, and no other is there.
func TestVendoredFilesAreThePublishedOnes(t *testing.T) {
	sums, err := os.ReadFile("assets/vendor/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{"SHA256SUMS": "", "README.md": ""}
	for line := range strings.Lines(string(sums)) {
		f := strings.Fields(line)
		known[f[1]] = f[0]
	}
	found, err := os.ReadDir("assets/vendor")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range found {
		want, ok := known[e.Name()]
		if !ok {
			t.Errorf("%s is not in SHA256SUMS", e.Name())
		}
		b, err := os.ReadFile("assets/vendor/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); want != "" && hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s is not what SHA256SUMS says", e.Name())
		}
	}
}

func TestWhereSigningInLeads(t *testing.T) {
	for in, want := range map[string]string{"/approvals?box=all": "/approvals?box=all", "//evil.example": "/", "https://evil.example": "/", `/\evil.example`: "/", "": "/", "/\t/evil": "/", "/sign-in": "/", "evil": "/"} {
		if got := local(in); got != want {
			t.Errorf("%q leads to %q", in, got)
		}
	}
}

func TestPathsHoldAnything(t *testing.T) {
	for in, want := range map[string]template.URL{"a b": "/agents/a%20b", "../x": "/agents/..%2Fx", "..": "/agents/%3F", `"><script>`: "/agents/%22%3E%3Cscript%3E"} {
		if got := pathOf("/agents", in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}

func TestExportsRunNoFormula(t *testing.T) {
	for in, want := range map[string]string{"=1+1": "'=1+1", "@x": "'@x", "-5": "'-5", "x=1": "x=1", "": ""} {
		if got := noFormula(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
