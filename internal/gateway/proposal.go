package gateway

import (
	"cmp"
	"strings"

	"github.com/countersign/countersign/internal/audit"
)

// proposes marks the outcome of a call whose answer is a proposal, as its tool
// or its connection declares: decision support, which people and later calls of
// the run follow or not.
func proposes(ev *audit.Event, call *Call) {
	kind := cmp.Or(call.Tool.References.Proposal, call.Connection.Proposal)
	plumbing := strings.HasPrefix(call.Tool.Name, "mcp:") || call.Tool.Name == "models"
	if kind != "" && !plumbing {
		ev.Labels = append(ev.Labels, audit.LabelProposal+kind)
	}
}
