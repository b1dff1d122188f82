package agents

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// toolbox is the MCP servers of an agent. It offers their tools to the model as
// "server__tool" and carries the model's calls out.
type toolbox struct {
	servers []*server
	diary   diary
}

type server struct {
	name     string
	endpoint string
	client   *http.Client
	session  *mcp.ClientSession
	tools    []*mcp.Tool
}

// definition is one tool as it is offered to a model.
type definition struct {
	name        string
	description string
	schema      map[string]any
}

// bearer adds the agent's credential to each request.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// openToolbox connects to the servers of those names. A server that refuses is
// noted and kept: calls to it are tried and their refusal is an answer.
func openToolbox(ctx context.Context, env Env, d diary, names ...string) (*toolbox, error) {
	b := &toolbox{diary: d}
	client := &http.Client{Transport: bearer{env.Token, http.DefaultTransport}}
	var last error
	for _, name := range names {
		s := &server{name: name, endpoint: env.MCPURL + "/" + name, client: client}
		if err := s.connect(ctx); err != nil {
			d.line("tools: %s is not available: %s", name, short(err.Error(), 300))
			last = err
		} else {
			d.line("tools: %s offers %d", name, len(s.tools))
		}
		b.servers = append(b.servers, s)
	}
	for _, s := range b.servers {
		if s.session != nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("no MCP server beneath %s answers: %w", env.MCPURL, last)
}

func (s *server) connect(ctx context.Context) error {
	c := mcp.NewClient(&mcp.Implementation{Name: "hanse-trade-agent", Version: "1.0.0"}, nil)
	session, err := c.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: s.endpoint, HTTPClient: s.client, DisableStandaloneSSE: true}, nil)
	if err != nil {
		return err
	}
	var tools []*mcp.Tool
	for t, err := range session.Tools(ctx, nil) {
		if err != nil {
			_ = session.Close()
			return err
		}
		tools = append(tools, t)
	}
	s.session, s.tools = session, tools
	return nil
}

func (b *toolbox) close() {
	for _, s := range b.servers {
		if s.session != nil {
			// The task is over; a server that does not say goodbye changes nothing.
			_ = s.session.Close()
		}
	}
}

// definitions lists all tools for the model.
func (b *toolbox) definitions() []definition {
	var out []definition
	for _, s := range b.servers {
		for _, t := range s.tools {
			schema, ok := t.InputSchema.(map[string]any)
			if !ok {
				schema = map[string]any{"type": "object"}
			}
			out = append(out, definition{name: s.name + "__" + t.Name, description: t.Description, schema: schema})
		}
	}
	return out
}

// call carries out one call of the model and returns what to tell it. Whatever
// goes wrong is told to the model, never raised: it may find another way.
func (b *toolbox) call(ctx context.Context, name, args string) (text string, failed bool) {
	prefix, tool, found := strings.Cut(name, "__")
	if !found {
		prefix, tool = b.home(name), name
	}
	if args == "" {
		args = "{}"
	}
	b.diary.line("calls %s/%s %s", prefix, tool, brief(args))
	text, failed = b.send(ctx, prefix, tool, args)
	if failed {
		b.diary.line("  not done: %s", short(text, 600))
	} else {
		b.diary.line("  answer: %s", short(text, 200))
	}
	return text, failed
}

// brief is a JSON object for reading: long values are cut, all names are shown.
func brief(args string) string {
	var object map[string]jsontext.Value
	if err := json.Unmarshal([]byte(args), &object); err != nil {
		return short(args, 120)
	}
	parts := make([]string, 0, len(object))
	for _, name := range slices.Sorted(maps.Keys(object)) {
		parts = append(parts, name+"="+short(string(object[name]), 100))
	}
	return strings.Join(parts, " ")
}

// home is the server that offers a tool named without one; a tool that nobody
// offers is asked of the last server, which will say so.
func (b *toolbox) home(tool string) string {
	for _, s := range b.servers {
		for _, t := range s.tools {
			if t.Name == tool {
				return s.name
			}
		}
	}
	return b.servers[len(b.servers)-1].name
}

func (b *toolbox) send(ctx context.Context, prefix, tool, args string) (string, bool) {
	var object map[string]jsontext.Value
	if err := json.Unmarshal([]byte(args), &object); err != nil {
		return "the arguments are not a JSON object: " + err.Error(), true
	}
	for _, s := range b.servers {
		if s.name != prefix {
			continue
		}
		if s.session == nil {
			if err := s.connect(ctx); err != nil {
				return err.Error(), true
			}
		}
		result, err := s.session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: jsontext.Value(args)})
		if err != nil {
			return err.Error(), true
		}
		return content(result), result.IsError
	}
	return "there is no server " + prefix, true
}

// content is the text of a result.
func content(r *mcp.CallToolResult) string {
	var texts []string
	for _, c := range r.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			texts = append(texts, t.Text)
		}
	}
	return strings.Join(texts, "\n")
}
