package agents

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Env is what an agent reads of its environment. Nothing else reaches it.
type Env struct {
	// OpenAIBaseURL ends in /v1, as the OpenAI clients expect.
	OpenAIBaseURL string
	OpenAIAPIKey  string
	// AnthropicBaseURL does not end in /v1, as the Anthropic clients expect.
	AnthropicBaseURL string
	AnthropicAPIKey  string
	// MCPURL is the address beneath which each MCP server has its path, such as
	// http://127.0.0.1:7470/mcp for http://127.0.0.1:7470/mcp/helpdesk.
	MCPURL string
	// HTTPURL is the address beneath which each HTTP API has its path.
	HTTPURL string
	// Token is the bearer token for MCP and HTTP.
	Token string
	// Model is optional.
	Model string
	// Task narrows the work: a ticket number for Support. It is an argument of
	// the program rather than part of the environment, and may be empty.
	Task string
}

// ReadEnv reads an Env with getenv (usually os.Getenv).
func ReadEnv(getenv func(string) string) Env {
	return Env{
		OpenAIBaseURL: getenv("OPENAI_BASE_URL"), OpenAIAPIKey: getenv("OPENAI_API_KEY"),
		AnthropicBaseURL: getenv("ANTHROPIC_BASE_URL"), AnthropicAPIKey: getenv("ANTHROPIC_API_KEY"),
		MCPURL: strings.TrimRight(getenv("COUNTERSIGN_MCP_URL"), "/"), HTTPURL: strings.TrimRight(getenv("COUNTERSIGN_HTTP_URL"), "/"), Token: getenv("COUNTERSIGN_TOKEN"),
		Model: getenv("MODEL"),
	}
}

// ErrEnv says which variable is missing.
var ErrEnv = errors.New("the agent's environment is incomplete")

func need(values map[string]string, names ...string) error {
	for _, name := range names {
		if values[name] == "" {
			return fmt.Errorf("%w: set %s, or start the agent with `countersign run --agent NAME -- ...`, which sets it", ErrEnv, name)
		}
	}
	return nil
}

// ErrLoop says that the model went on asking for tools beyond any use.
var ErrLoop = errors.New("the model asked for tools for too many turns; the agent gave up")

// maxTurns bounds the questions to the model in one task.
const maxTurns = 24

// diary prints what an agent does, one plain line per step.
type diary struct{ out io.Writer }

func (d diary) line(format string, args ...any) {
	// A reader that has gone must not stop the work.
	_, _ = fmt.Fprintln(d.out, oneLine(fmt.Sprintf(format, args...)))
}

// oneLine keeps foreign text from faking lines or terminal commands.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case r < ' ', r >= 0x7F && r < 0xA0:
			return -1
		}
		return r
	}, s)
}

func short(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n]) + "…"
}
