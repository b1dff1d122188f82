package mcp

import (
	"context"
	"encoding/json/jsontext"
	"fmt"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// lists names the member of each list's result that holds the list.
var lists = map[string]string{
	"tools/list": "tools", "prompts/list": "prompts",
	"resources/list": "resources", "resources/templates/list": "resourceTemplates",
}

// filter returns the response b without what the agent may not see or use. The
// items that stay keep their bytes and their order. method is empty on a GET
// stream, where an answer may be to anything.
func (f *Front) filter(ctx context.Context, who identity.Caller, c connections.Connection, method string, modern bool, b []byte) ([]byte, error) {
	if method != "" && lists[method] == "" && method != "resources/read" {
		return b, nil
	}
	if method != "" { // what decides is read by the strict reader
		if err := wire.Check(b); err != nil {
			return nil, fmt.Errorf("the upstream's answer is ambiguous: %w", err)
		}
	} else if wire.Check(b) != nil {
		return nil, fmt.Errorf("an ambiguous answer on a stream")
	}
	result := wire.Find(b, wire.Whole(b), "result")
	var edits []wire.Edit
	for m, member := range lists {
		at := wire.Find(b, result, member)
		if !at.Present() || (method != "" && method != m) {
			continue
		}
		keep, err := f.keeper(ctx, who, c, m, b, at)
		if err != nil {
			return nil, err
		}
		if e, changed := wire.Keep(b, at, wire.Items(b, at), keep); changed {
			edits = append(edits, e)
		}
	}
	// What one agent may see must not be served to another out of a cache.
	if scope, ok := wire.Text(b, wire.Find(b, result, "cacheScope")); (ok && scope != "private") || (!ok && modern && lists[method] != "") {
		edits = append(edits, wire.Set(b, result, "cacheScope", []byte(`"private"`)))
	}
	if len(edits) > 0 {
		b = wire.Splice(b, edits...)
	}
	if method == "tools/list" {
		b = f.offerCheck(who, c, b)
	}
	return b, nil
}

// keeper returns which items of the list at at stay.
func (f *Front) keeper(ctx context.Context, who identity.Caller, c connections.Connection, method string, b []byte, at wire.Span) (func(int) bool, error) {
	items := wire.Items(b, at)
	switch method {
	case "tools/list":
		return f.keepTools(ctx, who, c, b, items)
	case "resources/list":
		return func(i int) bool {
			uri := wire.Find(b, items[i], "uri")
			return uri.Present() && f.may(who, c, "mcp:resources/read", object("uri", uri.Of(b)))
		}, nil
	case "prompts/list":
		return func(i int) bool {
			name := wire.Find(b, items[i], "name")
			return name.Present() && f.may(who, c, "mcp:prompts/get", object("name", name.Of(b)))
		}, nil
	default: // templates stand for resources that cannot be named yet
		t, ok := f.o.Registry.Tool(c.Name, "mcp:resources/read")
		visible := ok && f.o.Line.Visible(who, c, t)
		return func(int) bool { return visible }, nil
	}
}

// keepTools compares what the upstream says now with what a person accepted.
func (f *Front) keepTools(ctx context.Context, who identity.Caller, c connections.Connection, b []byte, items []wire.Span) (func(int) bool, error) {
	defs, err := definitions(b, items)
	if err != nil {
		return nil, err
	}
	if c.Kind == connections.Retrieval { // ours, and nothing that could drift
		return func(i int) bool {
			t, ok := f.o.Registry.Tool(c.Name, defs[i].Name)
			return ok && t.Offered() && f.o.Line.Listed(who, c, t)
		}, nil
	}
	verdicts, err := f.o.Registry.Observe(ctx, c.Name, defs)
	if err != nil {
		f.o.Logger.Warn("a tool list was refused", "connection", c.Name, "error", err)
		return nil, err
	}
	return func(i int) bool {
		verdict, seen := verdicts[defs[i].Name]
		if !seen || verdict != connections.Same {
			return false
		}
		t, ok := f.o.Registry.Tool(c.Name, defs[i].Name)
		return ok && t.Callable() && f.o.Line.Listed(who, c, t)
	}, nil
}

func definitions(b []byte, items []wire.Span) ([]connections.Definition, error) {
	defs := make([]connections.Definition, 0, len(items))
	for _, item := range items {
		name, ok := wire.Text(b, wire.Find(b, item, "name"))
		if !ok {
			return nil, fmt.Errorf("the upstream lists a tool without a name")
		}
		defs = append(defs, connections.Definition{Name: name, Raw: jsontext.Value(item.Of(b))})
	}
	return defs, nil
}
