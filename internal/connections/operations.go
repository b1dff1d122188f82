package connections

import (
	"context"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections/openapi"
	"github.com/countersign/countersign/internal/fault"
)

// ErrDocument refuses an OpenAPI document.
var ErrDocument = fault.New(fault.Invalid, "bad_openapi", "the OpenAPI document cannot be used")

// Imported says what Import did, by tool name in order.
type Imported struct {
	Refreshed
	Left []string `json:"left" doc:"operations left out, and why"`
}

// Import reads the operations of an http connection out of an OpenAPI document
// (of those whose name one of only matches). The first time all of them are
// pinned in the name of the person; an operation reads if its method is safe
// and writes if not, until a person says otherwise. Later it is like looking
// at an MCP server again: what changed is drifted, what is new is refused until
// accepted, what is missing is gone.
func (s *Service) Import(ctx context.Context, by audit.Actor, reason, name string, document []byte, only ...string) (Imported, error) {
	c, ok := s.Connection(name)
	switch {
	case !ok:
		return Imported{}, ErrNotFound.Say("there is no connection %q", clip(name))
	case c.Kind != HTTP || c.Dialect != "":
		return Imported{}, bad("kind", "only http connections without a dialect have operations; %s is %s", name, c.Kind)
	}
	if err := checkReason(reason, false); err != nil {
		return Imported{}, err
	}
	read, err := openapi.Read(document, only...)
	if err != nil {
		return Imported{}, ErrDocument.Say("%s", err.Error()).With(err)
	}
	defs := make([]Definition, len(read.Operations))
	for i, o := range read.Operations {
		if t, ok := s.Tool(name, o.Name); ok && declared(t) {
			return Imported{}, ErrDocument.Say("the operation %s is in the document, and files that were applied declare it; change it there, or leave it out here (--only)", shown(o.Name))
		}
		raw, err := o.JSONDefinition()
		if err != nil {
			return Imported{}, ErrDocument.With(err)
		}
		defs[i] = Definition{Name: o.Name, Raw: raw}
	}
	out, err := s.compare(ctx, by, reason, c, defs)
	return Imported{Refreshed: out, Left: append([]string{}, read.Left...)}, err
}
