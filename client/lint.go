package client

import (
	"context"
	"net/http"
	"time"
)

// Lint is something in policies and grants that is probably not meant.
type Lint struct {
	Problem
	Kind string   `json:"kind"` // invalid, conflict, unreachable, shadowed, wide, unmatched
	By   []string `json:"by,omitempty"`
}

// LintPolicies looks for what is probably not meant: in files, taken in place of
// the saved ones of their names, or in all that is saved if there are none. What
// determined no call since a time is found too, unless it is zero.
func (c *Client) LintPolicies(ctx context.Context, files []NamedText, since time.Time) ([]Lint, error) {
	in := struct {
		Files []NamedText `json:"files,omitempty"`
		Since time.Time   `json:"since,omitzero"`
	}{files, since}
	out, err := send[struct {
		Found []Lint `json:"found"`
	}](ctx, c, http.MethodPost, v1+"/policy/lint", in)
	return out.Found, err
}

// Synthesis is the least that would have allowed what an agent did.
type Synthesis struct {
	Agent   string   `json:"agent"`
	Grants  []Grant  `json:"grants"`
	Cedar   string   `json:"cedar"` // the same as policies
	Calls   int64    `json:"calls"` // allowed calls that were looked at
	Tools   int      `json:"tools"`
	Unseen  int64    `json:"unseen,omitzero"` // of the calls, those whose arguments are not kept whole
	Gone    int64    `json:"gone,omitzero"`   // of the calls, those of tools that are not registered any more
	Loose   []string `json:"loose,omitempty"` // tools whose bounds were left out
	Partial bool     `json:"partial,omitempty"`
	Trial   Backtest `json:"trial"` // what it would change in place of the agent's grants
}

// SynthPolicy writes the least that would have allowed what an agent did in a
// time, and tries it.
func (c *Client) SynthPolicy(ctx context.Context, agent string, since, until time.Time) (Synthesis, error) {
	in := struct {
		Agent string    `json:"agent"`
		Since time.Time `json:"since,omitzero"`
		Until time.Time `json:"until,omitzero"`
	}{agent, since, until}
	return send[Synthesis](ctx, c, http.MethodPost, v1+"/policy/synth", in)
}
