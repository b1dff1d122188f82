package connections

import (
	"slices"
	"strings"
)

// What can be done about what inspection finds in a connection's calls and
// answers.
const (
	InspectNote   = "note"   // the events of the call carry the label; the default
	InspectRedact = "redact" // a marker stands for it
	InspectBlock  = "block"  // the call is refused, the answer ends
	InspectHold   = "hold:"  // prefix, then a group: its people decide about the call; an answer ends
)

// InspectLabels are the labels that inspection gives.
var InspectLabels = []string{"secret", "pii", "injection"}

// checkInspect leaves out what is the default.
func checkInspect(c *Connection) error {
	for label, action := range c.Inspect {
		if !slices.Contains(InspectLabels, label) {
			return bad("inspect", "%q is no label of inspection; there are %s", clip(label), strings.Join(InspectLabels, ", "))
		}
		group, hold := strings.CutPrefix(action, InspectHold)
		switch {
		case action == InspectNote:
			delete(c.Inspect, label)
		case hold && !nameForm.MatchString(group):
			return bad("inspect", "%s: %q does not name a group; write hold:GROUP", label, clip(action))
		case !hold && action != InspectRedact && action != InspectBlock:
			return bad("inspect", "%s: %q must be note, redact, block or hold:GROUP", label, clip(action))
		}
	}
	return nil
}
