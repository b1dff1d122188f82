package connections

import (
	"context"
	"maps"
	"slices"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections/openapi"
	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
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
		if t, ok := s.Tool(name, o.Name); ok && listed(t) {
			return Imported{}, ErrDocument.Say("the operation %s is in the document and listed by hand; leave one of them out", shown(o.Name))
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

// listed reports whether a tool is an operation that a person lists.
func listed(t Tool) bool { return lineOf(t) != "" }

// lineOf returns the line by which a person lists an operation, empty for any
// other tool.
func lineOf(t Tool) string {
	raw := t.Definition
	if len(raw) == 0 {
		raw = t.Drift
	}
	o, err := operation.Read(raw)
	if err != nil || o.Source != operation.Listed {
		return ""
	}
	return o.Line
}

// Listed returns the operations of a connection that a person lists: lines as
// operation.Parse reads them, by name.
func (s *Service) Listed(connection string) map[string]string {
	var lines map[string]string
	for _, t := range s.Tools(connection) {
		if line := lineOf(t); line != "" {
			if lines == nil {
				lines = map[string]string{}
			}
			lines[t.Name] = line
		}
	}
	return lines
}

// NormalizeListed returns lines in their plain form, or what is wrong with one.
func NormalizeListed(c Connection, lines map[string]string) (map[string]string, error) {
	if len(lines) == 0 {
		return nil, nil
	}
	if c.Kind != HTTP || c.Dialect != "" {
		return nil, bad("operations", "only http connections without a dialect have operations")
	}
	out := make(map[string]string, len(lines))
	for name, line := range lines {
		d, err := listedDefinition(name, line)
		if err != nil {
			return nil, err
		}
		out[name] = lineOf(Tool{Definition: d.Raw})
	}
	return out, nil
}

func listedDefinition(name, line string) (Definition, error) {
	o, err := operation.Parse(name, line)
	if err != nil {
		return Definition{}, bad("operations", "%s: %v", clip(name), err)
	}
	raw, err := o.JSONDefinition()
	if err != nil {
		return Definition{}, bad("operations", "%s: %v", clip(name), err)
	}
	d := Definition{Name: name, Raw: raw}
	if _, err := parseDefinition(d); err != nil {
		return Definition{}, bad("operations", "%s", fault.Public(err).Message)
	}
	return d, nil
}

// ListTx makes the operations that a person lists be these, inside a change,
// and pins them: who writes the list has looked at it. It reports whether that
// changed anything. Operations out of a document stay as they are.
func (s *Service) ListTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, conn string, lines map[string]string) (bool, error) {
	c, found, err := connectionRow(ctx, tx, conn)
	if err != nil {
		return false, err
	}
	if !found {
		return false, ErrNotFound.Say("there is no connection %q", clip(conn))
	}
	if lines, err = NormalizeListed(c, lines); err != nil {
		return false, err
	}
	rows, err := toolRowsOf(ctx, tx, conn)
	if err != nil {
		return false, err
	}
	byName := make(map[string]Tool, len(rows))
	for _, t := range rows {
		byName[t.Name] = t
	}
	changed := false
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		t, known := byName[name]
		wrote, err := s.listOne(ctx, tx, by, reason, c, name, lines[name], t, known)
		if err != nil {
			return false, err
		}
		changed = changed || wrote
	}
	for _, t := range rows {
		if _, stays := lines[t.Name]; stays || !listed(t) {
			continue
		}
		if _, err := tx.Exec(ctx, `DELETE FROM tools WHERE connection = $1 AND name = $2`, conn, t.Name); err != nil {
			return false, err
		}
		if err := record(ctx, tx, toolEvent("tool.deleted", by, reason, t, nil)); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

func (s *Service) listOne(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, c Connection, name, line string, old Tool, known bool) (bool, error) {
	if known && !listed(old) {
		return false, bad("operations", "%s comes from an OpenAPI document; leave one of them out", clip(name))
	}
	d, err := listedDefinition(name, line)
	if err != nil {
		return false, err
	}
	digest, err := Digest(d.Raw)
	if err != nil || known && old.Digest == digest {
		return false, err
	}
	now, err := parseDefinition(d)
	if err != nil {
		return false, err
	}
	t, was := old, &old
	if !known {
		was, t = nil, Tool{ID: id.At(id.Tool, s.now()), Connection: c.Name, Name: name, Effect: now.initial(c)}
	} else if before, err := parseDefinition(Definition{Name: name, Raw: old.Definition}); err == nil {
		t.Effect = raised(old.Effect, before, now)
	}
	return true, s.pin(ctx, tx, by, reason, t, was, sighting{def: d, digest: digest})
}
