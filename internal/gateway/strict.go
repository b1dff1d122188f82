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
	return refers(call) && call.conveys() && call.Tool.References.Flow.Source != flow.Trusted
}

// StrictDocuments reports whether that is so of the documents that a call answers,
// each by its own source.
func (g *Gateway) StrictDocuments(call *Call) bool { return refers(call) && call.documents() }

func refers(call *Call) bool {
	return call.Connection.Inspect[connections.InspectUntrusted] == connections.InspectReference && call.Who.Agent.Name != ""
}

// ReferText returns what stands for an untrusted text.
func (g *Gateway) ReferText(call *Call, text string) (string, error) {
	if g.o.Pseudonyms == nil {
		return "", ErrReferences
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	return g.o.Pseudonyms.Refer(ctx, pseudonymous(call), text)
}

// ReferDocument returns an API's JSON document with references in it; false if it
// is no JSON.
func (g *Gateway) ReferDocument(call *Call, b []byte) ([]byte, bool, error) {
	return call.Tool.References.Flow.ReferDocument(b, func(text string) (string, error) { return g.ReferText(call, text) })
}

// Refer returns an answer (the result of an MCP request) with references in it. An
// error means that the agent must not see it.
func (g *Gateway) Refer(call *Call, result []byte) ([]byte, error) {
	return call.Tool.References.Flow.Refer(result, func(text string) (string, error) { return g.ReferText(call, text) })
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
		switch {
		case call.Connection.Kind != connections.HTTP:
			paths = append(paths, jsontext.Pointer("/params/arguments").AppendToken(a))
		case a == "body": // the request's own
			paths = append(paths, "")
		}
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
