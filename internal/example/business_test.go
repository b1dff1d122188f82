package example_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/internal/example"
	"github.com/countersign/countersign/internal/example/courier"
	"github.com/countersign/countersign/internal/example/helpdesk"
	"github.com/countersign/countersign/internal/example/ledger"
)

var addresses = example.Addresses{OpenAI: "http://127.0.0.1:4000", Anthropic: "https://api.anthropic.com",
	Helpdesk: "http://127.0.0.1:4001/mcp", Courier: "http://127.0.0.1:4002/mcp", Forge: "http://127.0.0.1:4003", CIKeys: `{"keys":[]}`, Ledger: []string{"/opt/a dir/countersign", "example", "ledger", "--data", `C:\books "new"`}}

type resource struct {
	Kind string         `yaml:"kind"`
	Name string         `yaml:"name"`
	Spec map[string]any `yaml:"spec"`
}

func resources(t *testing.T) (docs []resource, cedar string) {
	t.Helper()
	files, err := example.Files(addresses)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name, ".cedar") {
			cedar += string(f.Text)
			continue
		}
		dec := yaml.NewDecoder(bytes.NewReader(f.Text))
		dec.KnownFields(true)
		for {
			var r resource
			err := dec.Decode(&r)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
			docs = append(docs, r)
		}
	}
	return docs, cedar
}

// each shows visit the tools the two servers really have.
func each(t *testing.T, visit func(name string, tool *mcp.Tool)) {
	t.Helper()
	desk, err := helpdesk.New(t.Context(), helpdesk.Options{Dir: t.TempDir(), Token: "desk-token"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = desk.Close() })
	books, err := ledger.New(t.Context(), ledger.Options{Dir: t.TempDir(), Secret: "ledger-secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = books.Close() })
	carrier, err := courier.New(courier.Options{Dir: t.TempDir(), Token: "courier-token"})
	if err != nil {
		t.Fatal(err)
	}
	for prefix, m := range map[string]*mcp.Server{"helpdesk": desk.MCP(), "ledger": books.MCP(), "courier": carrier.MCP()} {
		here, there := mcp.NewInMemoryTransports()
		if _, err := m.Connect(t.Context(), here, nil); err != nil {
			t.Fatal(err)
		}
		session, err := mcp.NewClient(&mcp.Implementation{Name: "test"}, nil).Connect(t.Context(), there, nil)
		if err != nil {
			t.Fatal(err)
		}
		for tool, err := range session.Tools(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			visit(prefix+"/"+tool.Name, tool)
		}
		_ = session.Close()
	}
}

func TestTheFilesAgreeWithTheSystems(t *testing.T) {
	docs, cedar := resources(t)
	var tools []string
	each(t, func(name string, _ *mcp.Tool) { tools = append(tools, name) })
	slices.Sort(tools)
	builtin := []string{"openai/chat.completions", "openai/responses", "openai/models", "anthropic/messages", "anthropic/messages.count_tokens", "anthropic/models",
		"handbook/search", "handbook/get", "handbook/document", "effect:irreversible",
		"forge/fetch", "forge/push", "forge/push.rewrite", "forge-api/pulls.list", "forge-api/pulls.open", "forge-api/deployments.list", "forge-api/deploy"}
	known := append(slices.Clone(tools), builtin...)
	byKind := map[string][]string{}
	var described []string
	for _, r := range docs {
		byKind[r.Kind] = append(byKind[r.Kind], r.Name)
		switch r.Kind {
		case "Tool":
			if !slices.Contains(builtin, r.Name) {
				described = append(described, r.Name)
			}
		case "Grant":
			for _, name := range r.Spec["tools"].([]any) {
				if full := r.Spec["connection"].(string) + "/" + name.(string); !slices.Contains(known, full) {
					t.Errorf("grant %s names the unknown tool %s", r.Name, full)
				}
			}
		}
	}
	slices.Sort(described)
	if !slices.Equal(described, tools) {
		t.Errorf("tools.yaml and the servers differ:\n%v\n%v", described, tools)
	}
	for _, m := range regexp.MustCompile(`Action::"([^"]+)"`).FindAllStringSubmatch(cedar, -1) {
		if !slices.Contains(known, m[1]) {
			t.Errorf("a policy names the unknown action %s", m[1])
		}
	}
	for _, want := range []struct {
		kind  string
		names string
	}{{"User", "ben fiona pat sam"}, {"Agent", "invoice-checker knowledge-assistant release-bot support-assistant"}, {"Connection", "anthropic courier forge forge-api handbook helpdesk ledger openai"},
		{"Secret", "anthropic-key courier-token forge-api-token forge-git-token helpdesk-token ledger-secret openai-key"}, {"Team", "customer-support finance-controllers platform"}} {
		got := byKind[want.kind]
		slices.Sort(got)
		if strings.Join(got, " ") != want.names {
			t.Errorf("%s: %v, want %s", want.kind, got, want.names)
		}
	}
	if !strings.Contains(cedar, `@approval("finance-controllers")`) {
		t.Error("no policy asks the finance controllers")
	}
}

func TestReferencesBetweenFilesHold(t *testing.T) {
	docs, _ := resources(t)
	have := func(kind string, name any) bool {
		return slices.ContainsFunc(docs, func(r resource) bool { return r.Kind == kind && r.Name == name })
	}
	for _, r := range docs {
		for field, kind := range map[string]string{"owner": "User", "backup": "User", "team": "Team", "agent": "Agent", "connection": "Connection", "secret": "Secret"} {
			if v, ok := r.Spec[field]; ok && !have(kind, v) {
				t.Errorf("%s %s: %s %q does not exist", r.Kind, r.Name, field, v)
			}
		}
		if r.Kind == "Connection" && r.Name == "ledger" {
			var words []string
			for _, w := range r.Spec["command"].([]any) {
				words = append(words, w.(string))
			}
			if !slices.Equal(words, addresses.Ledger) {
				t.Errorf("command %q became %q", addresses.Ledger, words)
			}
		}
		if r.Kind == "Connection" && r.Name == "anthropic" && r.Spec["allow_private"] != false {
			t.Error("a public provider is allowed to be private")
		}
		if r.Kind == "Connection" && r.Name == "openai" && r.Spec["allow_private"] != true {
			t.Error("a loopback provider is not allowed")
		}
	}
}

func TestPolicyTestsAreWellFormed(t *testing.T) {
	var cases []struct {
		Name, Agent, Tool, Expect string
		Args                      map[string]any
		RunLabels                 []string `yaml:"run_labels"`
		Provenance                map[string]bool
	}
	dec := yaml.NewDecoder(bytes.NewReader(example.PolicyTests))
	dec.KnownFields(true)
	if err := dec.Decode(&cases); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, c := range cases {
		count[c.Expect]++
		if c.Name == "" || !strings.Contains(c.Tool, "/") || !slices.Contains([]string{example.SupportAssistant, example.InvoiceChecker, example.KnowledgeAssistant, example.ReleaseBot}, c.Agent) {
			t.Errorf("incomplete case %+v", c)
		}
	}
	if count["allow"] < 5 || count["deny"] < 5 || count["hold"] < 1 || len(count) != 3 {
		t.Errorf("expectations: %v", count)
	}
}

func TestAddressesAreChecked(t *testing.T) {
	for _, broken := range []func(*example.Addresses){
		func(a *example.Addresses) { a.OpenAI = "" },
		func(a *example.Addresses) { a.Helpdesk = "127.0.0.1:80" },
		func(a *example.Addresses) { a.Anthropic = "file:///etc/passwd" },
		func(a *example.Addresses) { a.Ledger = nil },
		func(a *example.Addresses) { a.CIKeys = "" },
	} {
		a := addresses
		broken(&a)
		if _, err := example.Files(a); !errors.Is(err, example.ErrAddress) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

// Where git is missing the business has no release bot, and nothing names it.
func TestWithoutAForge(t *testing.T) {
	a := addresses
	a.Forge, a.CIKeys = "", ""
	files, err := example.Files(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if bytes.Contains(f.Text, []byte(example.ReleaseBot)) || bytes.Contains(f.Text, []byte("forge")) {
			t.Errorf("%s names what is not there", f.Name)
		}
	}
}

func TestWriteDirTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "business")
	for range 2 {
		if err := example.WriteDir(dir, addresses); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 16 {
		t.Errorf("%v %v", entries, err)
	}
	if docs, err := os.ReadDir(filepath.Join(dir, example.Handbook)); err != nil || len(docs) != 4 {
		t.Errorf("the handbook: %v %v", docs, err)
	}
}
