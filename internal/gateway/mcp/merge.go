package mcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// atOnce is how many upstreams are asked at the same time for one list.
const atOnce = 8

// list answers with the lists of all connections in one page, in the order of
// their names. A connection that cannot be asked is left out and named.
func (a *aggregate) list() error {
	items, missing := a.collect(a.x.method)
	if a.x.method == "tools/list" && a.mayWait() {
		items = append(items, []byte(checkDefinition))
		if a.f.o.Scopes != nil && a.x.who.Run != "" {
			items = append(items, []byte(scopeDefinition))
		}
	}
	if g := a.f.o.Grants; a.x.method == "tools/list" && g != nil && g.Offered(a.r.Context()) {
		items = append(items, []byte(grantDefinition))
	}
	out := fmt.Appendf(nil, `%q:[`, lists[a.x.method])
	for i, item := range items {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, item...)
	}
	out = append(out, ']')
	if a.x.modern {
		out = append(out, `,"ttlMs":0,"cacheScope":"private"`...)
	}
	if len(missing) > 0 {
		out = append(out, `,"_meta":{"countersign/unavailable":[`...)
		for i, name := range missing {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, wire.Quote(name)...)
		}
		out = append(out, "]}"...)
	}
	a.result(out)
	return nil
}

// mayWait reports whether a call of the agent to any connection may have to
// wait for people.
func (a *aggregate) mayWait() bool {
	return slices.ContainsFunc(a.f.o.Registry.Connections(), func(c connections.Connection) bool { return c.ServesTools() && a.f.mayWait(a.who, c) })
}

// collect asks every connection that the agent may use for a list.
func (a *aggregate) collect(method string) (items [][]byte, missing []string) {
	all := a.f.o.Registry.Connections()
	all = slices.DeleteFunc(slices.Clone(all), func(c connections.Connection) bool { return !a.serves(c.Name) })
	slices.SortFunc(all, func(x, y connections.Connection) int { return cmp.Compare(x.Name, y.Name) })
	found, failed := make([][][]byte, len(all)), make([]error, len(all))
	var wg sync.WaitGroup
	room := make(chan struct{}, atOnce)
	for i, c := range all {
		room <- struct{}{}
		wg.Go(func() {
			found[i], failed[i] = a.listOf(c, method)
			<-room
		})
	}
	wg.Wait()
	for i, c := range all {
		items = append(items, found[i]...)
		if failed[i] != nil {
			missing = append(missing, c.Name)
			a.f.o.Logger.Warn("a connection is missing from an aggregated list", "connection", c.Name, "method", method, "error", failed[i])
		}
	}
	return items, missing
}

// listOf returns what the agent may see of one connection's list, under the
// names it has here. A server without such a list has an empty one.
func (a *aggregate) listOf(c connections.Connection, method string) ([][]byte, error) {
	p, k, err := a.peer(c)
	if err != nil {
		return nil, err
	}
	if !p.offers(method) {
		return nil, nil
	}
	items, err := a.pagesOf(p, method)
	if r := (*fault.Error)(nil); errors.As(err, &r) && !p.modern { // perhaps the upstream forgot the session
		a.f.peers.drop(k)
		if p, _, err = a.peer(c); err != nil {
			return nil, err
		}
		items, err = a.pagesOf(p, method)
	}
	return items, err
}

func (a *aggregate) pagesOf(p *peer, method string) ([][]byte, error) {
	var out [][]byte
	err := p.pages(a.r.Context(), method, func(b []byte, items []wire.Span) error {
		at := wire.Find(b, wire.Whole(b), lists[method])
		keep, err := a.f.keeper(a.r.Context(), a.who, p.conn, method, b, at)
		if err != nil {
			return err
		}
		for i, item := range items {
			if keep(i) {
				out = append(out, a.rename(p.conn, method, item.Of(b)))
			}
		}
		return nil
	})
	return out, err
}

// rename puts the connection's name before a tool's or prompt's, and remembers
// where a resource is.
func (a *aggregate) rename(c connections.Connection, method string, raw []byte) []byte {
	if method == "tools/list" && !a.x.modern && asksOldTasks(a.r) {
		raw = a.f.taskTool(a.who, c, raw)
	}
	member := map[string]string{"tools/list": "name", "prompts/list": "name", "resources/list": "uri", "resources/templates/list": "uriTemplate"}[method]
	at := wire.Find(raw, wire.Whole(raw), member)
	value, _ := wire.Text(raw, at)
	if member != "name" {
		a.f.peers.remember(a.who.Agent.ID, value, c.Name)
		return raw
	}
	return wire.Splice(raw, wire.Edit{At: at, With: wire.Quote(c.Name + between + value)})
}

// offers reports whether the upstream declared what a list is about.
func (p *peer) offers(method string) bool {
	what, _, _ := strings.Cut(method, "/")
	return wire.Path(p.hello, wire.Whole(p.hello), "capabilities", what).Present()
}

// behind makes x the exchange with the upstream p of a message from a client
// of the aggregated endpoint.
func (x *exchange) behind(p *peer, raw []byte) error {
	m, err := wire.Scan(raw)
	if err != nil {
		return err
	}
	x.peer, x.conn, x.msg, x.method = p, p.conn, m, m.Method
	return x.plain()
}

// parseBehind turns a message from the aggregated endpoint into a Call.
func (x *exchange) parseBehind(_ context.Context, who identity.Caller) (*gateway.Call, error) {
	x.who = who
	tool, args, err := x.resolve()
	name := x.msg.Name
	if x.method == "resources/read" {
		name = x.msg.URI
	}
	call := &gateway.Call{
		Connection: x.conn, Tool: tool, Args: args, Bound: x.bound(), Rewrite: x.rewrite, Observer: x, Implied: x.implied(tool), Server: x.tasks(),
		Request: &gateway.Upstream{Method: http.MethodPost, Header: x.peer.header(x.method, name), Body: x.translated(), Idle: idleAnswer},
	}
	x.call = call
	call.Reread = func(replace func([]byte) []byte) error {
		err := x.reread(call, replace)
		call.Request.Body = x.translated()
		return err
	}
	for h, values := range x.r.Header {
		if strings.HasPrefix(h, wire.ParamPrefix) && x.peer.modern {
			call.Request.Header[h] = values
		}
	}
	return call, err
}

// translated returns the message in the upstream's era.
func (x *exchange) translated() []byte {
	m, p := x.msg, x.peer
	switch {
	case x.modern == p.modern || m.Kind != wire.Request:
		return m.Raw
	case x.modern: // an older server must not take it for a message of the newer era
		if !m.Meta.Present() {
			return m.Raw
		}
		return wire.Splice(m.Raw, wire.Edit{At: m.Meta, With: without(m.Raw, m.Meta, wire.MetaVersion, wire.MetaCapabilities, wire.MetaClient)})
	}
	// An older client cannot be asked anything in the newer way: no capabilities.
	meta := fmt.Appendf(nil, `%q:%q,%q:%s,%q:{}`, wire.MetaVersion, p.version, wire.MetaClient, p.clientInfo(), wire.MetaCapabilities)
	at := wire.Span{Start: m.Meta.Start + 1, End: m.Meta.Start + 1}
	switch {
	case !m.Params.Present():
		end := wire.Whole(m.Raw).End - 1
		return wire.Splice(m.Raw, wire.Edit{At: wire.Span{Start: end, End: end}, With: fmt.Appendf(nil, `,"params":{"_meta":{%s}}`, meta)})
	case !m.Meta.Present():
		return wire.Splice(m.Raw, wire.Set(m.Raw, m.Params, "_meta", fmt.Appendf(nil, "{%s}", meta)))
	case len(wire.Members(m.Raw, m.Meta)) > 0:
		meta = append(meta, ',')
	}
	return wire.Splice(m.Raw, wire.Edit{At: at, With: meta})
}

// backward puts a message of the upstream into the client's era and names. The
// result is nil if the client must not get it.
func (x *exchange) backward(b []byte) []byte {
	whole := wire.Whole(b)
	result := wire.Find(b, whole, "result")
	if method := wire.Find(b, whole, "method"); method.Present() {
		id := wire.Find(b, whole, "id")
		switch {
		case !id.Present():
			return b
		case x.modern: // it declared nothing that would let a server ask
			name, _ := wire.Text(b, method)
			x.decline(id.Of(b), name)
			return nil
		}
		token := x.f.sealFor(x.who, connections.Connection{Name: x.asks}, "question", x.conn.Name+"|"+string(id.Of(b)))
		return wire.Splice(b, wire.Edit{At: id, With: wire.Quote(token)})
	}
	kind, _ := wire.Text(b, wire.Find(b, result, "resultType"))
	switch {
	case !result.Present() || x.modern == x.peer.modern:
		return b
	case x.modern && kind == "":
		return wire.Splice(b, wire.Set(b, result, "resultType", []byte(`"complete"`)))
	case !x.modern && kind != "" && kind != "complete":
		x.failed = "the server needs input that this client cannot give"
		return wire.AppendError(nil, x.id(), wire.CodeInternal, "The server needs input that this client's protocol version cannot give; use a client of "+wire.Modern+".", nil)
	}
	return b
}
