package openapi

import (
	"encoding/json/jsontext"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/connections/operation"
)

// Result is what a document offers.
type Result struct {
	Operations []*operation.Operation // by name
	// Left says which operations are left out, and why: they cannot be told
	// from others, or say something that is not read.
	Left []string
}

// methods are the members of a path item that are operations.
var methods = map[string]string{"get": "GET", "put": "PUT", "post": "POST", "delete": "DELETE", "options": "OPTIONS", "head": "HEAD", "patch": "PATCH"}

// Read returns the operations of a document whose name one of only matches
// (path.Match, such as "repos/*"); all if there is none.
func Read(raw []byte, only ...string) (Result, error) {
	for _, pattern := range only {
		if _, err := path.Match(pattern, ""); err != nil {
			return Result{}, bad("%.40q is not a pattern such as repos/*", pattern)
		}
	}
	d, err := parse(raw)
	if err != nil {
		return Result{}, err
	}
	r := reader{d: d, only: only, names: map[string]string{}}
	paths := open(d.root["paths"])
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		if !strings.HasPrefix(p, "/") {
			continue // an extension
		}
		if err := r.item(p, paths[p]); err != nil {
			return Result{}, err
		}
	}
	slices.SortFunc(r.out.Operations, func(a, b *operation.Operation) int { return strings.Compare(a.Name, b.Name) })
	if len(r.out.Operations) == 0 {
		return Result{}, bad("it has no operation that could be used")
	}
	return r.out, nil
}

// reader gathers operations.
type reader struct {
	d     *document
	only  []string
	names map[string]string // of an operation: its method and path
	out   Result
}

func (r *reader) wanted(name string) bool {
	return len(r.only) == 0 || slices.ContainsFunc(r.only, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

func (r *reader) item(at string, v jsontext.Value) error {
	item, err := r.d.resolve(v)
	if err != nil {
		return err
	}
	for _, m := range slices.Sorted(maps.Keys(methods)) {
		o := open(item[m])
		if o == nil {
			continue
		}
		where := methods[m] + " " + at
		name := o.text("operationId")
		if name == "" {
			name = where
		}
		if !r.wanted(name) {
			continue
		}
		if other, twice := r.names[name]; twice {
			return bad("%s and %s have the same operationId %.80q", other, where, name)
		}
		r.names[name] = where
		if len(r.out.Operations) == MaxOperations {
			return bad("it has more than %d operations; take only those that agents need (--only)", MaxOperations)
		}
		op, why, err := r.operation(name, methods[m], at, item, o)
		switch {
		case err != nil:
			return err
		case why != nil:
			r.out.Left = append(r.out.Left, fmt.Sprintf("%s (%s): %v", name, where, why))
		default:
			r.out.Operations = append(r.out.Operations, op)
		}
	}
	return nil
}

// operation reads one operation; why says for what reason it is left out.
func (r *reader) operation(name, method, at string, item, o object) (op *operation.Operation, why, err error) {
	op = &operation.Operation{Name: name, Source: operation.OpenAPI, Method: method, Path: at, Description: clip(first(o.text("summary"), o.text("description")))}
	if op.Parameters, op.Path, err = r.parameters(at, item, o); err != nil {
		return nil, nil, err
	}
	op.WebSocket = method == "GET" && o.flag("x-websocket")
	if len(o["requestBody"]) > 0 && method != "GET" && method != "HEAD" {
		if op.Body, err = r.body(o["requestBody"]); err != nil {
			return nil, nil, err
		}
	}
	return op, op.Finish(), nil
}

// parameters joins those of the path and of the operation, which go before.
func (r *reader) parameters(at string, item, o object) ([]operation.Parameter, string, error) {
	var out []operation.Parameter
	seen := map[string]int{}
	for _, from := range []object{item, o} {
		params, _ := list(from["parameters"])
		for _, v := range params {
			p, err := r.d.resolve(v)
			if err != nil {
				return nil, at, err
			}
			q, ok, err := r.parameter(p)
			if err != nil {
				return nil, at, err
			}
			if !ok {
				continue
			}
			if p.flag("x-multi-segment") && strings.HasSuffix(at, "/{"+q.Name+"}") { // GitHub's word for a path that holds slashes
				at = strings.TrimSuffix(at, "{"+q.Name+"}") + "{+" + q.Name + "}"
			}
			key := q.In + " " + q.Name
			if i, twice := seen[key]; twice {
				out[i] = q
				continue
			}
			seen[key] = len(out)
			out = append(out, q)
		}
	}
	return out, at, nil
}

// ignored are the header parameters that are none (OpenAPI 3.1, Parameter Object).
var ignored = []string{"accept", "content-type", "authorization"}

func (r *reader) parameter(p object) (operation.Parameter, bool, error) {
	q := operation.Parameter{Name: p.text("name"), In: p.text("in"), Type: operation.String, Required: p.flag("required") || p.text("in") == operation.InPath}
	switch {
	case q.In != operation.InPath && q.In != operation.InQuery && q.In != operation.InHeader: // cookies do not pass
		return q, false, nil
	case q.In == operation.InHeader && slices.Contains(ignored, strings.ToLower(q.Name)):
		return q, false, nil
	}
	schema, err := r.d.resolve(p["schema"])
	if err != nil || schema == nil {
		return q, true, err
	}
	name, _ := typeOf(schema)
	if name == "array" {
		if schema, err = r.d.resolve(schema["items"]); err != nil {
			return q, true, err
		}
		q.Many = true
		q.Joined = q.In != operation.InQuery || string(p["explode"]) == "false"
		name, _ = typeOf(schema)
	}
	if slices.Contains([]string{operation.Integer, operation.Number, operation.Boolean}, name) {
		q.Type = name
	}
	return q, true, nil
}

func (r *reader) body(v jsontext.Value) (*operation.Body, error) {
	o, err := r.d.resolve(v)
	if err != nil {
		return nil, err
	}
	b := &operation.Body{Required: o.flag("required")}
	content := open(o["content"])
	var read jsontext.Value // the schema of what is read
	best := 0
	for _, media := range slices.Sorted(maps.Keys(content)) {
		plain, _, _ := strings.Cut(strings.ToLower(media), ";")
		plain = strings.TrimSpace(plain)
		b.Types = append(b.Types, plain)
		if this := rank(plain); this > best {
			read, best = open(content[media])["schema"], this
		}
	}
	slices.Sort(b.Types)
	b.Types = slices.Compact(b.Types)
	if len(b.Types) == 0 {
		b.Types = []string{"*/*"}
	}
	b.Schema, err = r.d.schema(read, best == 1 || best == 2)
	return b, err
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// clip keeps a description readable in a list.
func clip(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}
