package example_test

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/internal/example"
	"github.com/countersign/countersign/internal/policy"
)

// generate is what policy sees of a request to a model.
const generate = `{"type":"object","properties":{"model":{"type":"string"},"max_tokens":{"type":"integer"},"stream":{"type":"boolean"},
	"tools":{"type":"array","items":{"type":"string"}}},"required":["model","stream"]}`

// document is what policy sees of each document in an answer.
const document = `{"type":"object","properties":{"id":{"type":"string"},"classification":{"type":"string"}},"required":["id","classification"]}`

// What policy sees of a push, and of a deployment.
const (
	push = `{"type":"object","properties":{"repository":{"type":"string"},"step":{"type":"string"},"ref":{"type":"string"},"kind":{"type":"string"},
	"refs":{"type":"array","items":{"type":"string"}},"kinds":{"type":"array","items":{"type":"string"}}},"required":["repository","step"]}`
	deploy = `{"type":"object","properties":{"body":{"type":"object","properties":{"ref":{"type":"string"},"environment":{"type":"string"}},"required":["ref","environment"]}},"required":["body"]}`
)

// TestTheExpectedDecisions runs the business's own expectations against its
// policies and grants on the real engine, with the schemas the servers publish.
func TestTheExpectedDecisions(t *testing.T) {
	docs, _ := resources(t)
	effects := map[string]string{}
	agents := map[string]map[string]any{}
	var grants []policy.Grant
	for _, r := range docs {
		switch r.Kind {
		case "Tool":
			effects[r.Name] = r.Spec["effect"].(string)
		case "Agent":
			agents[r.Name] = r.Spec
		case "Grant":
			g := policy.Grant{Name: r.Name, Agent: r.Spec["agent"].(string), Connection: r.Spec["connection"].(string)}
			g.When, _ = r.Spec["when"].(string)
			for _, name := range r.Spec["tools"].([]any) {
				g.Tools = append(g.Tools, name.(string))
			}
			grants = append(grants, g)
		}
	}
	tools := []policy.ToolType{}
	for full, schema := range schemas(t) {
		connection, name, _ := strings.Cut(full, "/")
		tools = append(tools, policy.ToolType{Connection: connection, Kind: "mcp", Tool: name, Effect: effects[full], InputSchema: schema})
	}
	for _, full := range []string{"openai/chat.completions", "openai/responses", "openai/models", "anthropic/messages", "anthropic/messages.count_tokens", "anthropic/models"} {
		connection, name, _ := strings.Cut(full, "/")
		tools = append(tools, policy.ToolType{Connection: connection, Kind: "llm", Tool: name, Effect: "read", InputSchema: jsontext.Value(generate)})
	}
	for _, name := range []string{"search", "get", "document"} {
		tools = append(tools, policy.ToolType{Connection: "handbook", Kind: "retrieval", Tool: name, Effect: "read", InputSchema: jsontext.Value(document)})
	}
	for name, schema := range map[string]string{"forge/fetch": push, "forge/push": push, "forge/push.rewrite": push, "forge-api/pulls.list": generate,
		"forge-api/pulls.open": generate, "forge-api/deployments.list": generate, "forge-api/deploy": deploy} {
		connection, tool, _ := strings.Cut(name, "/")
		tools = append(tools, policy.ToolType{Connection: connection, Kind: "http", Tool: tool, Effect: "write", InputSchema: jsontext.Value(schema)})
	}
	texts := map[string]string{}
	files, err := example.Files(addresses)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name, ".cedar"); ok {
			texts[name] = string(f.Text)
		}
	}
	set, problems, err := policy.Compile(texts, grants, tools)
	if err != nil || len(problems) > 0 {
		t.Fatalf("%v %v", err, problems)
	}
	var cases []struct {
		Name, Agent, Tool, Expect string
		Args                      map[string]any
		RunLabels                 []string `yaml:"run_labels"`
		Provenance                policy.Provenance
	}
	if err := yaml.NewDecoder(bytes.NewReader(example.PolicyTests)).Decode(&cases); err != nil {
		t.Fatal(err)
	}
	var asked []policy.Case
	for _, c := range cases {
		a := agents[c.Agent]
		asked = append(asked, policy.Case{Name: c.Name, Agent: c.Agent, Tool: c.Tool, Args: c.Args, Expect: c.Expect, RunLabels: c.RunLabels, Provenance: c.Provenance, Team: a["team"].(string), Stage: a["stage"].(string)})
	}
	for _, r := range set.Test(asked, time.Now()) {
		if !r.Passed {
			t.Errorf("%s: %s", r.Name, r.Problem)
		}
	}
}

// schemas are the input schemas of the tools the servers publish.
func schemas(t *testing.T) map[string]jsontext.Value {
	t.Helper()
	out := map[string]jsontext.Value{}
	each(t, func(name string, tool *mcp.Tool) {
		raw, err := json.Marshal(tool.InputSchema)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = raw
	})
	return out
}
