package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/connections"
)

// maxLeft is how many of the operations that a document leaves out are named.
const maxLeft = 20

func (o *OpenAPISpec) bytes() []byte {
	if o.File != "" {
		return []byte(o.text)
	}
	return []byte(o.Document)
}

// documented returns how the operations of a connection will differ from what
// they are for the document that its spec names, and says which of the document
// cannot be used.
func (p *plan) documented(connection string, spec *ConnectionSpec) []FieldDiff {
	old := p.now.documented[connection]
	if spec.declared == nil { // what was imported stays as it is
		old = p.now.declared[connection]
	} else {
		p.leftOut(connection, spec.declared.Left)
	}
	var out []FieldDiff
	for _, l := range spec.declared.Compare(old) {
		out = append(out, FieldDiff{"openapi." + l.Path, l.Old, l.New})
	}
	return out
}

func (p *plan) leftOut(connection string, left []string) {
	if len(left) == 0 {
		return
	}
	shown := left[:min(len(left), maxLeft)]
	more := ""
	if len(left) > len(shown) {
		more = fmt.Sprintf(", and %d more", len(left)-len(shown))
	}
	p.warnings = append(p.warnings, fmt.Sprintf("the document of %s has operations that cannot be used: %s%s", connection, strings.Join(shown, "; "), more))
}

// declaredNames returns the operations that a connection will have; false if the
// files do not say what they are.
func (p *plan) declaredNames(conn string) ([]string, bool) {
	for _, c := range p.changes {
		spec, ok := c.spec.(*ConnectionSpec)
		if !ok || c.Name != conn || spec.Kind != connections.HTTP || spec.Dialect != "" {
			continue
		}
		names := slices.Sorted(maps.Keys(spec.Operations))
		if spec.declared != nil {
			for _, d := range spec.declared.Operations {
				names = append(names, d.Name)
			}
			return names, true
		}
		for _, t := range p.now.documented[conn] { // what was imported stays
			names = append(names, t.Name)
		}
		return names, true
	}
	return nil, false
}
