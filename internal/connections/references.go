package connections

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/words"
)

// ErrReferences is returned for a declaration of a subject or of objects that
// cannot be right.
var ErrReferences = fault.New(fault.Invalid, "bad_references", "the declared subject or objects of the tool are not valid")

// Limits of what a tool declares, and of what is read out of one call.
const (
	maxObjects    = 16  // types a tool declares, and objects a call is said to touch
	maxPath       = 256 // bytes of a path
	maxObjectName = 256 // bytes of one object's name: what is longer is not one
	MaxSubject    = 512 // bytes of a subject: what is longer is not one
	anyElement    = "*" // in a path: every element of a list
	pathSeparator = "."
)

var objectTypeForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// References say what the arguments and answers of a tool mean. A path is the names of members from the outside in, with
// dots between them; * stands for every element of a list: "customer.email",
// "lines.*.invoice_id".
type References struct {
	// Subject is the path of the person a call is about: its payloads are kept
	// under a key of their own and are erased with it.
	Subject string
	// Objects are the paths of the business objects a call touches, by their
	// type: {"invoice": "invoice_id"}. Their names stay in the log.
	Objects map[string]string
	// Template says a call in plain words to those who decide about it:
	// "{agent} wants to pay {amount_cents|money:EUR} to {payee}"; see words.Check.
	Template string
	// Proposal is what kind of proposal an answer is, such as "anomaly": decision
	// support, which a person or a later call takes up. Empty: none.
	Proposal string
	// Flow says which arguments matter and who writes what the tool answers.
	Flow flow.Spec
	// Limits are rates of calls and the size of answers, by LimitCalls,
	// LimitAgentCalls and LimitResult.
	Limits map[string]string
	// Undo says how a call is undone.
	Undo Undo
	// UndoWindow is how long a call with an effect waits, prepared, before it is
	// sent, and can be cancelled, such as 30s; empty: it is sent at once.
	UndoWindow string
}

// MaxProposal is the longest name of a kind of proposals, in bytes.
const MaxProposal = 32

func checkProposal(kind string) string {
	if kind != "" && !objectTypeForm.MatchString(kind) {
		return fmt.Sprintf("%q is not a kind of proposals: at most %d lower-case letters, digits, - and _, beginning with a letter", clip(kind), MaxProposal)
	}
	return ""
}

// Normalize returns r as it is stored, or what is wrong with it (ErrReferences,
// with a FieldError as cause). schema is the tool's input schema: where it lists
// its properties, a path must begin with one of them.
func (r References) Normalize(schema jsontext.Value) (References, error) {
	r.Subject, r.Objects, r.Template = strings.TrimSpace(r.Subject), maps.Clone(r.Objects), strings.TrimSpace(r.Template)
	if wrong := words.Check(r.Template, schema); wrong != "" {
		return References{}, badReference("template", "%s", wrong)
	}
	if wrong := checkProposal(r.Proposal); wrong != "" {
		return References{}, badReference("proposal", "%s", wrong)
	}
	if field, wrong := limitsWrong(r.Limits); wrong != "" {
		return References{}, badReference("limits."+field, "%s", wrong)
	}
	properties := propertiesOf(schema)
	if field, wrong := r.Flow.Check(properties); wrong != "" {
		return References{}, badReference("flow."+field, "%s", wrong)
	}
	if field, wrong := r.Undo.check(); wrong != "" {
		return References{}, badReference(field, "%s", wrong)
	}
	if d, err := time.ParseDuration(r.UndoWindow); r.UndoWindow != "" && (err != nil || d < time.Second || d > LongestUndoWindow) {
		return References{}, badReference("undo_window", "is not a duration from 1s to %s, such as 30s", LongestUndoWindow)
	}
	if r.Subject != "" {
		if err := checkPath("subject", r.Subject, properties); err != nil {
			return References{}, err
		}
	}
	if len(r.Objects) > maxObjects {
		return References{}, badReference("objects", "a tool declares at most %d types of objects", maxObjects)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Objects)) {
		if !objectTypeForm.MatchString(kind) {
			return References{}, badReference("objects", "%q is not the type of an object: lower-case letters, digits, - and _, beginning with a letter", clip(kind))
		}
		if err := checkPath("objects."+kind, r.Objects[kind], properties); err != nil {
			return References{}, err
		}
	}
	return r, nil
}

func badReference(field, format string, args ...any) error {
	fe := &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
	return ErrReferences.Say("%s", fe.Error()).With(fe)
}

func checkPath(field, path string, properties []string) error {
	if len(path) > maxPath {
		return badReference(field, "a path has at most %d bytes", maxPath)
	}
	steps := strings.Split(path, pathSeparator)
	for _, s := range steps {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			return badReference(field, "%q is not a path such as customer.email or lines.*.invoice_id", clip(path))
		}
	}
	if len(properties) > 0 && !slices.Contains(properties, steps[0]) {
		return badReference(field, "the tool has no argument %q; it has %s", clip(steps[0]), clip(strings.Join(properties, ", ")))
	}
	return nil
}

// propertiesOf returns the names of the arguments that a schema lists.
func propertiesOf(schema jsontext.Value) []string {
	var s struct {
		Properties map[string]jsontext.Value `json:"properties"`
	}
	if json.Unmarshal(schema, &s) != nil {
		return nil // a schema of another form lists none
	}
	return slices.Sorted(maps.Keys(s.Properties))
}

// same reports whether two declarations say the same.
func (r References) same(q References) bool {
	return r.Subject == q.Subject && maps.Equal(r.Objects, q.Objects) && r.Template == q.Template && r.Proposal == q.Proposal && r.Flow.Equal(q.Flow) && maps.Equal(r.Limits, q.Limits) && r.Undo.Equal(q.Undo) && r.UndoWindow == q.UndoWindow
}

// LongestUndoWindow is the longest time that a call waits before it is sent.
const LongestUndoWindow = 24 * time.Hour

// Delay returns how long a call waits before it is sent; 0: not at all.
func (r References) Delay() time.Duration {
	d, _ := time.ParseDuration(r.UndoWindow) // checked when it was declared
	return d
}

// IsZero reports whether nothing is declared.
func (r References) IsZero() bool { return r.same(References{}) }

// SubjectOf returns whom a call with these arguments is about, "" if that is
// not declared, not given, or several people.
func (r References) SubjectOf(args jsontext.Value) string {
	if r.Subject == "" {
		return ""
	}
	found := named(args, r.Subject, MaxSubject)
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

// ObjectsOf returns the objects that a call with these arguments touches, as
// "invoice/4711", each once, by type and then as the arguments name them.
func (r References) ObjectsOf(args jsontext.Value) []string {
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(r.Objects)) {
		for _, name := range named(args, r.Objects[kind], maxObjectName) {
			if len(out) == maxObjects {
				return out
			}
			out = append(out, kind+"/"+name)
		}
	}
	return out
}

// named returns the texts and numbers at a path, each once.
func named(args jsontext.Value, path string, most int) []string {
	var out []string
	walk(args, strings.Split(path, pathSeparator), func(v jsontext.Value) {
		name := ""
		switch v.Kind() {
		case '"':
			if json.Unmarshal(v, &name) != nil {
				return
			}
		case '0':
			name = string(bytes.TrimSpace(v))
		default:
			return
		}
		name = strings.TrimSpace(name)
		if name == "" || len(name) > most || strings.ContainsFunc(name, unicode.IsControl) || slices.Contains(out, name) {
			return
		}
		out = append(out, name)
	})
	return out
}

// walk calls emit for the values at a path. What is not JSON has none.
func walk(v jsontext.Value, path []string, emit func(jsontext.Value)) {
	if len(path) == 0 {
		emit(v)
		return
	}
	kind := v.Kind()
	if kind != '{' && (kind != '[' || path[0] != anyElement) {
		return
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := dec.ReadToken(); err != nil {
		return
	}
	for dec.PeekKind() != '}' && dec.PeekKind() != ']' {
		match := kind == '['
		if kind == '{' {
			name, err := dec.ReadToken()
			if err != nil {
				return
			}
			match = name.String() == path[0]
		}
		value, err := dec.ReadValue()
		if err != nil {
			return
		}
		if match {
			walk(value.Clone(), path[1:], emit)
		}
	}
}

// SetReferences says where the arguments of a tool name whom a call is about
// and what it touches; it reports whether that changed anything. Needs a reason
// when it does.
func (s *Service) SetReferences(ctx context.Context, by audit.Actor, reason, conn, tool string, r References) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.SetReferencesTx(ctx, tx, by, reason, conn, tool, r)
		return err
	})
	return changed, err
}

// SetReferencesTx is SetReferences inside a change.
func (s *Service) SetReferencesTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, conn, tool string, r References) (bool, error) {
	t, err := s.toolTx(ctx, tx, conn, tool)
	switch {
	case err != nil:
		return false, err
	case t.References.same(r):
		return false, nil
	case t.Status == StatusNew:
		return false, ErrNothingNew.Say("tool %s/%s was never accepted; accept it before saying what its arguments mean", conn, t.Name)
	}
	if r, err = r.Normalize(t.opened().InputSchema); err != nil {
		return false, err
	}
	if err := checkReason(reason, true); err != nil {
		return false, err
	}
	was := t.References
	if t.References = r; was.same(r) {
		return false, nil
	}
	if err := putReferences(ctx, tx.Tx, t); err != nil {
		return false, err
	}
	detail := map[string]any{}
	if was.Template != r.Template {
		detail["template"] = [2]string{was.Template, r.Template}
	}
	if !was.Flow.Equal(r.Flow) {
		detail["flow"] = [2]flow.Spec{was.Flow, r.Flow}
	}
	if was.UndoWindow != r.UndoWindow {
		detail["undo_window"] = [2]string{was.UndoWindow, r.UndoWindow}
	}
	if !was.Undo.Equal(r.Undo) {
		detail["undo"] = [2]Undo{was.Undo, r.Undo}
	}
	if !maps.Equal(was.Limits, r.Limits) {
		detail["limits"] = [2]any{orEmpty(was.Limits), orEmpty(r.Limits)}
	}
	if was.Proposal != r.Proposal {
		detail["proposal"] = [2]string{was.Proposal, r.Proposal}
	}
	if was.Subject != r.Subject {
		detail["subject"] = [2]string{was.Subject, r.Subject}
	}
	if !maps.Equal(was.Objects, r.Objects) {
		detail["objects"] = [2]any{orEmpty(was.Objects), orEmpty(r.Objects)}
	}
	return true, record(ctx, tx, toolEvent("tool.references_set", by, reason, t, detail))
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
