package releases

import (
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/findings"
)

// Signals are by what a canary is judged: what is reached first rolls it back. A
// signal that is absent is not looked at.
type Signals struct {
	Refusals int64  `json:"refusals,omitzero" minimum:"0" maximum:"100" doc:"percent of the canary's calls that may be refused"`
	Errors   int64  `json:"errors,omitzero" minimum:"0" maximum:"100" doc:"percent of the canary's calls that may fail"`
	Finding  string `json:"finding,omitempty" doc:"a finding about the agent or a run of the canary, of this severity or a worse one: info, low, medium, high or critical"`
	Least    int64  `json:"least,omitzero" minimum:"0" maximum:"100000" doc:"calls before percentages count; 20 if absent"`
}

// defaultLeast is how many calls a canary makes before percentages count.
const defaultLeast = 20

// normalize fills in what is absent: without any signal, those that most want.
func (g *Signals) normalize() (*Signals, error) {
	out := Signals{}
	if g != nil {
		out = *g
	}
	if out.Refusals == 0 && out.Errors == 0 && out.Finding == "" {
		out.Refusals, out.Errors, out.Finding = 20, 20, findings.High
	}
	if out.Least == 0 {
		out.Least = defaultLeast
	}
	switch {
	case out.Refusals < 0 || out.Refusals > 100 || out.Errors < 0 || out.Errors > 100:
		return nil, ErrInvalid.Say("signals: a share is 1 to 100 percent")
	case out.Finding != "" && !slices.Contains(findings.Severities, out.Finding):
		return nil, ErrInvalid.Say("signals: finding: %.80q must be one of %s", out.Finding, strings.Join(findings.Severities, ", "))
	case out.Least < 1 || out.Least > 100_000:
		return nil, ErrInvalid.Say("signals: least must be 1 to 100000 calls")
	}
	return &out, nil
}
