package connections

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections/openapi"
	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
)

// Document is what an OpenAPI document that a manifest names declares.
type Document struct {
	Operations []Definition // by name
	Left       []string     // operations left out, and why
}

// MaxDocument is the largest OpenAPI document, in bytes.
const MaxDocument = openapi.MaxDocument

// ReadDocument reads what an OpenAPI document declares for a connection: the
// operations whose name one of only matches. What is wrong is a FieldError.
func ReadDocument(c Connection, raw []byte, only ...string) (*Document, error) {
	if c.Kind != HTTP || c.Dialect != "" {
		return nil, bad("openapi", "only http connections without a dialect have operations")
	}
	read, err := openapi.Read(raw, only...)
	if err != nil {
		return nil, bad("openapi", "%s", err.Error())
	}
	d := &Document{Left: read.Left}
	for _, o := range read.Operations {
		o.Source = operation.Declared
		def, err := definitionOf(o)
		if err != nil {
			return nil, bad("openapi", "%s: %s", clip(o.Name), fault.Public(err).Message)
		}
		d.Operations = append(d.Operations, def)
	}
	return d, nil
}

func definitionOf(o *operation.Operation) (Definition, error) {
	raw, err := o.JSONDefinition()
	if err != nil {
		return Definition{}, err
	}
	d := Definition{Name: o.Name, Raw: raw}
	_, err = parseDefinition(d)
	return d, err
}

// operationOf returns the operation that a tool is, nil if it is none.
func operationOf(t Tool) *operation.Operation {
	raw := t.Definition
	if len(raw) == 0 {
		raw = t.Drift
	}
	o, err := operation.Read(raw)
	if err != nil {
		return nil
	}
	return o
}

// declared reports whether files that were applied declare a tool, by a line or
// by a document.
func declared(t Tool) bool {
	o := operationOf(t)
	return o != nil && (o.Source == operation.Listed || o.Source == operation.Declared)
}

// lineOf returns the line by which a person lists an operation, empty for any
// other tool.
func lineOf(t Tool) string {
	o := operationOf(t)
	if o == nil || o.Source != operation.Listed {
		return ""
	}
	return o.Line
}

// Documented returns the operations of a connection out of documents, by name;
// with imported also those that were imported, whose place a document that a
// manifest names takes.
func (s *Service) Documented(connection string, imported bool) []Tool {
	var out []Tool
	for _, t := range s.Tools(connection) {
		if documented(t, imported) {
			out = append(out, t)
		}
	}
	return out
}

func documented(t Tool, imported bool) bool {
	o := operationOf(t)
	return o != nil && (o.Source == operation.Declared || imported && o.Source == operation.OpenAPI)
}

// WriteDocument returns an OpenAPI document that declares these operations.
func WriteDocument(tools []Tool) ([]byte, error) {
	var ops []*operation.Operation
	for _, t := range tools {
		if o := operationOf(t); o != nil {
			ops = append(ops, o)
		}
	}
	return openapi.Write(ops)
}

// Compare returns how operations differ from what a document declares (nil: none):
// a line for each that comes or goes, and one for each difference of the others.
// The path of a line begins with the operation's name.
func (d *Document) Compare(old []Tool) []Line {
	was, lines := make(map[string]Tool, len(old)), []Line(nil)
	for _, t := range old {
		was[t.Name] = t
	}
	if d != nil {
		for _, def := range d.Operations {
			t, known := was[def.Name]
			delete(was, def.Name)
			if !known {
				lines = append(lines, Line{Path: visible(def.Name), New: plainly(Tool{Definition: def.Raw})})
			} else if digest, err := Digest(def.Raw); err != nil || digest != t.Digest {
				for _, l := range Diff(t.Definition, def.Raw) {
					lines = append(lines, Line{Path: visible(def.Name) + l.Path, Old: l.Old, New: l.New})
				}
			}
		}
	}
	for _, t := range was {
		lines = append(lines, Line{Path: visible(t.Name), Old: plainly(t)})
	}
	slices.SortStableFunc(lines, func(a, b Line) int { return strings.Compare(a.Path, b.Path) })
	return lines
}

// plainly is an operation in a few words.
func plainly(t Tool) string {
	o := operationOf(t)
	if o == nil {
		return "an operation"
	}
	return visible(o.Method + " " + o.Path)
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
	d, err := definitionOf(o)
	if err != nil {
		return Definition{}, bad("operations", "%s: %s", clip(name), fault.Public(err).Message)
	}
	return d, nil
}

// DeclareTx makes the operations that files declare be these, inside a change,
// and pins them: who writes them down has looked at them. They come from lines
// and from a document (nil: none), which takes the place of one that was
// imported. It reports whether that changed anything. Without a document,
// what was imported stays as it is.
func (s *Service) DeclareTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, conn string, lines map[string]string, doc *Document) (bool, error) {
	c, found, err := connectionRow(ctx, tx, conn)
	if err != nil {
		return false, err
	}
	if !found {
		return false, ErrNotFound.Say("there is no connection %q", clip(conn))
	}
	defs, err := declarations(c, lines, doc)
	if err != nil {
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
	for _, name := range slices.Sorted(maps.Keys(defs)) {
		t, known := byName[name]
		if known && !declared(t) && !(doc != nil && documented(t, true)) {
			return false, bad("operations", "%s comes from an OpenAPI document; leave one of them out", clip(name))
		}
		wrote, err := s.declareOne(ctx, tx, by, reason, c, defs[name], t, known)
		if err != nil {
			return false, err
		}
		changed = changed || wrote
	}
	for _, t := range rows {
		if _, stays := defs[t.Name]; stays || !declared(t) && !(doc != nil && documented(t, true)) {
			continue
		}
		if err := s.undeclare(ctx, tx, by, reason, t); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

// declarations joins lines and a document.
func declarations(c Connection, lines map[string]string, doc *Document) (map[string]Definition, error) {
	lines, err := NormalizeListed(c, lines)
	if err != nil {
		return nil, err
	}
	defs := make(map[string]Definition, len(lines))
	if doc != nil {
		for _, d := range doc.Operations {
			if _, twice := lines[d.Name]; twice {
				return nil, bad("operations", "%s is in the OpenAPI document, too; leave one of them out", clip(d.Name))
			}
			defs[d.Name] = d
		}
	}
	for name, line := range lines {
		if defs[name], err = listedDefinition(name, line); err != nil {
			return nil, err
		}
	}
	if len(defs) > MaxTools {
		return nil, bad("operations", "there are %d, more than %d", len(defs), MaxTools)
	}
	return defs, nil
}

func (s *Service) undeclare(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, t Tool) error {
	if _, err := tx.Exec(ctx, `DELETE FROM tools WHERE connection = $1 AND name = $2`, t.Connection, t.Name); err != nil {
		return err
	}
	why := first(reason, "no file declares it any more")
	if err := s.findings.CloseObjectTx(ctx, tx, by, toolObject(t.Connection, t.Name), why, RuleDrift, RuleNew); err != nil {
		return err
	}
	return record(ctx, tx, toolEvent("tool.deleted", by, reason, t, nil))
}

func (s *Service) declareOne(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, c Connection, d Definition, old Tool, known bool) (bool, error) {
	digest, err := Digest(d.Raw)
	if err != nil || known && old.Status == StatusPinned && old.Digest == digest {
		return false, err
	}
	now, err := parseDefinition(d)
	if err != nil {
		return false, err
	}
	t, was := old, &old
	if !known {
		was, t = nil, Tool{ID: id.At(id.Tool, s.now()), Connection: c.Name, Name: d.Name, Effect: now.initial(c)}
	} else if before, err := parseDefinition(Definition{Name: d.Name, Raw: old.Definition}); err == nil {
		t.Effect = raised(old.Effect, before, now)
	}
	if err := s.pin(ctx, tx, by, reason, t, was, sighting{def: d, digest: digest}); err != nil || !known || old.Status == StatusPinned {
		return true, err
	}
	why := first(reason, "the file that was applied declares it")
	return true, s.findings.CloseObjectTx(ctx, tx, by, toolObject(c.Name, d.Name), why, RuleDrift, RuleNew)
}
