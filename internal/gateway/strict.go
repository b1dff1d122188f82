package gateway

import (
	"bytes"
	"context"
	"encoding/json/jsontext"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/flow"
)

// Strict reports whether the untrusted text that a call answers is handed to the
// agent as references, which tools alone expand.
func (g *Gateway) Strict(call *Call) bool {
	return call.Connection.Inspect[connections.InspectUntrusted] == connections.InspectReference && call.Who.Agent.Name != "" &&
		call.conveys() && call.Tool.References.Flow.Source != flow.Trusted
}

// Refer returns an answer (the result of an MCP request) with references in it. An
// error means that the agent must not see it.
func (g *Gateway) Refer(call *Call, result []byte) ([]byte, error) {
	if g.o.Pseudonyms == nil {
		return nil, ErrReferences
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	return call.Tool.References.Flow.Refer(result, func(text string) (string, error) { return g.o.Pseudonyms.Refer(ctx, pseudonymous(call), text) })
}

// expand puts texts in place of the references in those arguments of a call that
// its tool declares. What is decided about, recorded and sent has the texts.
func (g *Gateway) expand(call *Call, b []byte) ([]byte, error) {
	args := call.Tool.References.Flow.Expand
	if g.o.Pseudonyms == nil || len(args) == 0 || !bytes.Contains(b, []byte("ref:")) {
		return b, nil
	}
	var paths []jsontext.Pointer
	for _, a := range args {
		base := jsontext.Pointer("")
		if call.Connection.Kind != connections.HTTP {
			base = "/params/arguments"
		}
		paths = append(paths, base.AppendToken(a))
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	return replaceStrings(b, paths, func(s string) (string, error) { return g.o.Pseudonyms.Expand(ctx, pseudonymous(call), s) })
}

// replaceStrings returns a JSON document with other strings at these paths and
// below.
func replaceStrings(b []byte, paths []jsontext.Pointer, with func(string) (string, error)) ([]byte, error) {
	d := jsontext.NewDecoder(bytes.NewReader(b), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	var out []byte
	at := 0
	for {
		switch d.PeekKind() {
		case '{', '[', '}', ']':
			if _, err := d.ReadToken(); err != nil {
				return b, nil // not JSON: nothing to expand
			}
			continue
		}
		kind, n := d.StackIndex(d.StackDepth())
		v, err := d.ReadValue()
		if err != nil {
			break
		}
		if v.Kind() != '"' || kind == '{' && n%2 == 0 || !beneath(d.StackPointer(), paths) {
			continue
		}
		text, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			continue
		}
		end := int(d.InputOffset())
		now, err := with(string(text))
		if err != nil {
			return nil, err
		}
		if now == string(text) {
			continue
		}
		if out, err = jsontext.AppendQuote(append(out, b[at:end-len(v)]...), now); err != nil {
			return nil, err
		}
		at = end
	}
	return append(out, b[at:]...), nil
}

func beneath(p jsontext.Pointer, paths []jsontext.Pointer) bool {
	for _, x := range paths {
		if x.Contains(p) {
			return true
		}
	}
	return false
}
