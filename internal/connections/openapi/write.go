package openapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"strings"

	"github.com/countersign/countersign/internal/connections/operation"
)

// Write returns a document in which Read finds these operations again, the same
// in everything but their source. They must have come out of one document.
func Write(ops []*operation.Operation) ([]byte, error) {
	paths := map[string]map[string]any{}
	plain, rest := []*operation.Operation(nil), []*operation.Operation(nil)
	for _, o := range ops {
		if strings.Contains(o.Path, "{+") {
			rest = append(rest, o)
		} else {
			plain = append(plain, o)
		}
	}
	for _, o := range append(plain, rest...) { // the latter can be written in two ways
		at, method := strings.ReplaceAll(o.Path, "{+", "{"), strings.ToLower(o.Method)
		if _, taken := paths[at][method]; taken { // one whose last parameter is a segment, and one for all that is left
			at = o.Path
		}
		if paths[at] == nil {
			paths[at] = map[string]any{}
		}
		paths[at][method] = written(o)
	}
	doc := map[string]any{"openapi": "3.1.0", "info": map[string]any{"title": "operations", "version": "1"}, "paths": paths}
	return json.Marshal(doc, json.Deterministic(true), jsontext.WithIndent("  "))
}

func written(o *operation.Operation) map[string]any {
	out := map[string]any{"operationId": o.Name}
	if o.Description != "" {
		out["summary"] = o.Description
	}
	if o.WebSocket {
		out["x-websocket"] = true
	}
	var params []map[string]any
	for _, p := range o.Parameters {
		params = append(params, writtenParameter(o, p))
	}
	if params != nil {
		out["parameters"] = params
	}
	if b := o.Body; b != nil {
		body := map[string]any{"content": writtenContent(b)}
		if b.Required {
			body["required"] = true
		}
		out["requestBody"] = body
	}
	return out
}

func writtenParameter(o *operation.Operation, p operation.Parameter) map[string]any {
	schema := map[string]any{"type": p.Type}
	if p.Many {
		schema = map[string]any{"type": "array", "items": schema}
	}
	out := map[string]any{"name": p.Name, "in": p.In, "schema": schema}
	if p.Required {
		out["required"] = true
	}
	if p.Many && p.Joined && p.In == operation.InQuery {
		out["explode"] = false
	}
	if p.In == operation.InPath && strings.HasSuffix(o.Path, "/{+"+p.Name+"}") {
		out["x-multi-segment"] = true
	}
	return out
}

// writtenContent gives the schema to the types that Read takes it from.
func writtenContent(b *operation.Body) map[string]any {
	best := 0
	for _, t := range b.Types {
		best = max(best, rank(t))
	}
	content := map[string]any{}
	for _, t := range b.Types {
		media := map[string]any{}
		if len(b.Schema) > 0 && rank(t) == best {
			media["schema"] = b.Schema
		}
		content[t] = media
	}
	return content
}

// rank says of which media type the schema is read: JSON before forms, and
// nothing of what is opaque (0).
func rank(media string) int {
	switch {
	case operation.IsJSON(media):
		return 3
	case media == operation.Form:
		return 2
	case media == operation.Multipart:
		return 1
	}
	return 0
}
