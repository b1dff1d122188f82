package mcp

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// envelope names the members of _meta that differ from one sending of the same
// call to the next: what routes, traces and describes it, not what it asks for.
var envelope = []string{"progressToken", "traceparent", "tracestate", "baggage", wire.MetaVersion, wire.MetaCapabilities, wire.MetaClient}

// asked returns the members of params that say what is asked for, in the order
// of their names: the raw bytes of each. The id of the message and its envelope
// are left out.
func (x *exchange) asked() (params, meta []wire.Member) {
	b := x.msg.Raw
	for _, m := range wire.Members(b, x.msg.Params) {
		if m.Name != "_meta" && m.Name != "task" {
			params = append(params, m)
		}
	}
	for _, m := range wire.Members(b, x.msg.Meta) {
		if !slices.Contains(envelope, m.Name) {
			meta = append(meta, m)
		}
	}
	byName := func(a, b wire.Member) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(params, byName)
	slices.SortFunc(meta, byName)
	return params, meta
}

// bound is what an approval of the message is for: the method and exactly the
// bytes of everything it asks for.
func (x *exchange) bound() []byte {
	out := append([]byte(x.method), '\n')
	params, meta := x.asked()
	for i, list := range [][]wire.Member{params, meta} {
		for _, m := range list {
			out = fmt.Appendf(out, "%d %s %d\n", i, wire.Quote(m.Name), m.Val.End-m.Val.Start)
			out = append(out, m.Val.Of(x.msg.Raw)...)
			out = append(out, '\n')
		}
	}
	return out
}

// wire returns the message as the server can send it later without its client:
// to the aggregated endpoint, in the newer era, where no session is needed.
func (x *exchange) wire() *approvals.Wire {
	if x.method != "tools/call" {
		return nil
	}
	params, meta := x.asked()
	body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{`)
	for _, m := range params {
		value := m.Val.Of(x.msg.Raw)
		if m.Name == "name" {
			value = wire.Quote(x.conn.Name + between + x.msg.Name)
		}
		body = append(append(append(body, wire.Quote(m.Name)...), ':'), value...)
		body = append(body, ',')
	}
	body = append(body, `"_meta":{`...)
	for _, m := range meta {
		body = append(append(append(body, wire.Quote(m.Name)...), ':'), m.Val.Of(x.msg.Raw)...)
		body = append(body, ',')
	}
	header := map[string][]string{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
		wire.HeaderVersion: {wire.Modern}, wire.HeaderMethod: {"tools/call"}, wire.HeaderName: {wire.Encode(x.conn.Name + between + x.msg.Name)},
	}
	for name, values := range x.r.Header {
		if strings.HasPrefix(name, wire.ParamPrefix) {
			header[name] = values
		}
	}
	body = fmt.Appendf(body, `%q:%q,%q:{"name":"countersign","version":%s},%q:{}}}}`, wire.MetaVersion, wire.Modern, wire.MetaClient, wire.Quote(x.f.o.Version), wire.MetaCapabilities)
	return &approvals.Wire{Front: "mcp", Method: http.MethodPost, Path: "/mcp", Body: body, Header: header}
}

// replay answers with what the same call was answered when it was made, under
// the present request's id.
func (x *exchange) replay(a *gateway.Answer) {
	body, err := io.ReadAll(a.Body)
	if err != nil {
		x.refuse(gateway.Refuse(err))
		return
	}
	answer := x.reply(a.Header.Get("Content-Type"), body)
	if answer == nil {
		x.refuse(gateway.Refuse(gateway.ErrAnswer))
		return
	}
	x.w.Header().Set("X-Countersign-Call", a.Call)
	x.json(http.StatusOK, answer)
}

// reply finds the response in a kept answer and puts it under this request's id.
func (x *exchange) reply(contentType string, body []byte) []byte {
	if media(contentType) == "text/event-stream" {
		r := wire.NewReader(bytes.NewReader(body), len(body)+1)
		for {
			e, err := r.Next()
			if err != nil {
				return nil
			}
			if out := x.reply("application/json", e.Data); out != nil {
				return out
			}
		}
	}
	if wire.Check(body) != nil {
		return nil
	}
	whole := wire.Whole(body)
	result, failure := wire.Find(body, whole, "result"), wire.Find(body, whole, "error")
	switch {
	case wire.Find(body, whole, "method").Present():
		return nil
	case failure.Present():
		out := append([]byte(`{"jsonrpc":"2.0","id":`), x.id()...)
		return append(append(append(out, `,"error":`...), failure.Of(body)...), '}')
	case !result.Present():
		return nil
	}
	if kind := wire.Find(body, result, "resultType"); x.modern && !kind.Present() && body[result.Start] == '{' {
		body = wire.Splice(body, wire.Set(body, result, "resultType", []byte(`"complete"`)))
		result = wire.Find(body, wire.Whole(body), "result")
	}
	return wire.AppendResult(nil, x.id(), result.Of(body))
}
