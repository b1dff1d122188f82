package connections

import (
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/identity"
)

// Serves reports whether agents of a stage may reach the connection: it names the
// stage, or names none.
func (c Connection) Serves(stage string) bool {
	return len(c.Stages) == 0 || slices.Contains(c.Stages, stage)
}

// checkStages puts the stages in their order, each once.
func checkStages(c *Connection) error {
	for _, s := range c.Stages {
		if !slices.Contains(identity.Stages, s) {
			return bad("stages", "%q is no stage; there are %s", clip(s), strings.Join(identity.Stages, ", "))
		}
	}
	slices.SortFunc(c.Stages, func(a, b string) int { return slices.Index(identity.Stages, a) - slices.Index(identity.Stages, b) })
	if c.Stages = slices.Compact(c.Stages); len(c.Stages) == 0 {
		c.Stages = nil
	}
	return nil
}
