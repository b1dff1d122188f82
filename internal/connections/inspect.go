package connections

import (
	"slices"
	"strings"
)

// What can be done about what inspection finds in a connection's calls and
// answers.
const (
	InspectNote   = "note"         // the events of the call carry the label; the default
	InspectRedact = "redact"       // a marker stands for it
	InspectStand  = "pseudonymise" // a placeholder stands for it, and a tool that may have the value gets it back
	InspectBlock  = "block"        // the call is refused, the answer ends
	InspectHold   = "hold:"        // prefix, then a group: its people decide about the call; an answer ends
)

// InspectUntrusted is the label of untrusted text, of which a connection can hand
// out references.
const (
	InspectUntrusted = "untrusted"
	InspectReference = "reference"
)

// InspectLabels are the labels that inspection gives.
var InspectLabels = []string{"secret", "pii", "injection"}

// checkInspect leaves out what is the default.
func checkInspect(c *Connection) error {
	for label, action := range c.Inspect {
		if label == InspectUntrusted {
			if action != InspectReference || c.Kind == LLM || c.Dialect == Git {
				return bad("inspect", "untrusted: the only action is %s; models have no references, nor has git", InspectReference)
			}
			continue
		}
		if label == InspectGuard {
			if _, err := ParseGuard(action); err != nil {
				return bad("inspect", "guard: %s", err.Error())
			}
			continue
		}
		if !slices.Contains(InspectLabels, label) {
			return bad("inspect", "%q is no label of inspection; there are %s, and guard for a service outside", clip(label), strings.Join(InspectLabels, ", "))
		}
		group, hold := strings.CutPrefix(action, InspectHold)
		switch {
		case action == InspectNote:
			delete(c.Inspect, label)
		case hold && !nameForm.MatchString(group):
			return bad("inspect", "%s: %q does not name a group; write hold:GROUP", label, clip(action))
		case !hold && action != InspectRedact && action != InspectStand && action != InspectBlock:
			return bad("inspect", "%s: %q must be note, redact, pseudonymise, block or hold:GROUP", label, clip(action))
		}
	}
	return nil
}
