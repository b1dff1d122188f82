package agents

import (
	"context"
	"encoding/json/v2"
	"io"
)

// Hands are the tools of an agent without its mind: whoever holds them does
// what a fully hijacked agent would.
type Hands struct{ box *toolbox }

// Open connects to the MCP servers of those names beneath env.MCPURL. It is an
// error if none of them answers.
func Open(ctx context.Context, env Env, servers ...string) (*Hands, error) {
	box, err := openToolbox(ctx, env, diary{io.Discard}, servers...)
	if err != nil {
		return nil, err
	}
	return &Hands{box}, nil
}

// Close ends the sessions.
func (h *Hands) Close() { h.box.close() }

// Call calls "server__tool" and returns the text of the answer, or of the
// refusal.
func (h *Hands) Call(ctx context.Context, name string, args map[string]any) (text string, failed bool) {
	b, err := json.Marshal(args)
	if err != nil {
		return err.Error(), true
	}
	return h.box.call(ctx, name, string(b))
}

// Descriptions are what the servers say of their tools, as the agent is shown it.
func (h *Hands) Descriptions() []string {
	var out []string
	for _, d := range h.box.definitions() {
		out = append(out, d.description)
	}
	return out
}
