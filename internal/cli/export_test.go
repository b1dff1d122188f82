package cli

import (
	"io"

	"github.com/countersign/countersign/client"
)

// The functions that read foreign bytes, for tests.
var (
	LastMessage = lastMessage
	ResultText  = resultText
	Brief       = brief
	Inert       = inert
	InertLines  = inertLines
	Expiry      = expiry
	ReadFiles   = readFiles
	ReadCases   = readCases
	TraceOf     = traceOf
	Quoted      = quoted
	LeaksIn     = leaksIn
	ProofAt     = proofAt
	Proof       = proof
)

// KubernetesToken is where the projected token is.
func KubernetesToken(file string) (before string) {
	before, kubernetesToken = kubernetesToken, file
	return before
}

// EventLine is eventLine of a command without colours.
func EventLine(ev client.Event) string { return (&app{stdout: io.Discard}).eventLine(ev) }

// Sources is findSecrets.
var Sources = findSecrets

// Values and Missing open what Sources returns.
func (s sources) Values() (map[string]string, []string) { return s.values, s.missing }

// Tree is a trace, for tests.
func (t *trace) Tree() string {
	var text string
	var walk func(string, []*step)
	walk = func(indent string, steps []*step) {
		for _, s := range steps {
			text += indent + s.Kind + " " + s.Tool
			if s.refused() {
				text += " " + s.Type
			}
			if s.Outcome != nil {
				text += " " + s.Outcome.Status
			}
			text += "\n"
			walk(indent+"  ", s.Steps)
		}
	}
	walk("", t.Steps)
	return text
}
