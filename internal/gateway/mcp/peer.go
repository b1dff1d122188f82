package mcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// legacy is the version we ask for where the older era is spoken.
const legacy = "2025-11-25"

// sender takes a call the way of all calls: in an agent's name or in ours.
type sender func(ctx context.Context, call *gateway.Call) (*gateway.Answer, error)

// peer is one upstream as we speak to it when we are the client: for discovery
// and behind the aggregated endpoint. It speaks whichever era the upstream does.
type peer struct {
	f    *Front
	conn connections.Connection
	send sender
	caps []byte // the client capabilities we declare, a JSON object
	// older says that the client behind us is of the older era.
	older bool

	modern  bool
	version string
	session string // the older era's, as the upstream gave it
	hello   []byte // the result of server/discover or initialize
}

// probeTime is how long a process may take to answer a question of the newer
// era that it may never have heard of.
const probeTime = 10 * time.Second

// open finds out which era the upstream speaks and begins a session where that
// is the older one. A server that speaks both is spoken to in the era of the
// client behind it: only then can it ask that client something.
func (p *peer) open(ctx context.Context) error {
	only, known := p.f.peers.era(p.conn)
	switch {
	case known && only == old:
		return p.initialize(ctx)
	case !p.older || known:
		modern, err := p.probe(ctx)
		if modern || err != nil || known {
			return err
		}
		if err = p.initialize(ctx); err == nil {
			p.f.peers.learn(p.conn, old)
		}
		return err
	}
	err := p.initialize(ctx)
	if r := (*gateway.Refusal)(nil); err == nil || errors.As(err, &r) {
		return err
	}
	modern, perr := p.probe(ctx)
	if !modern {
		return cmp.Or(perr, err)
	}
	p.f.peers.learn(p.conn, young)
	return nil
}

func (p *peer) initialize(ctx context.Context) error {
	p.modern, p.version, p.session = false, "", ""
	params := fmt.Appendf(nil, `"protocolVersion":%q,"capabilities":%s,"clientInfo":%s`, legacy, p.caps, p.clientInfo())
	hello, err := p.ask(ctx, "initialize", "", params)
	if err != nil {
		return err
	}
	version, ok := wire.Text(hello, wire.Find(hello, wire.Whole(hello), "protocolVersion"))
	if !ok {
		return ErrDiscovery.Say("the MCP server answered initialize without a protocol version")
	}
	p.version, p.hello = version, hello
	return p.tell(ctx, "notifications/initialized")
}

// probe asks in the newer era. A server of that era must answer server/discover
// and name the version. An error means that it could not be asked.
func (p *peer) probe(ctx context.Context) (bool, error) {
	if len(p.conn.Command) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, probeTime)
		defer cancel()
	}
	p.modern, p.version = true, wire.Modern
	hello, err := p.ask(ctx, "server/discover", "", nil)
	if err == nil {
		p.hello = hello
		versions := wire.Items(hello, wire.Find(hello, wire.Whole(hello), "supportedVersions"))
		return slices.ContainsFunc(versions, func(v wire.Span) bool { s, _ := wire.Text(hello, v); return s == wire.Modern }), nil
	}
	if r := (*gateway.Refusal)(nil); errors.As(err, &r) && !r.Sent {
		return false, err // refused or unreachable: the other era would be too
	}
	return false, nil
}

func (p *peer) clientInfo() []byte {
	return fmt.Appendf(nil, `{"name":"countersign","version":%s}`, wire.Quote(p.f.o.Version))
}

// meta is the _meta that each request of the modern era carries.
func (p *peer) meta() []byte {
	return fmt.Appendf(nil, `{%q:%q,%q:%s,%q:%s}`, wire.MetaVersion, p.version, wire.MetaClient, p.clientInfo(), wire.MetaCapabilities, p.caps)
}

// header returns the headers of a message to the upstream. name is what
// Mcp-Name repeats, empty for most methods.
func (p *peer) header(method, name string) http.Header {
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	h.Set("User-Agent", "countersign/"+p.f.o.Version)
	if p.version != "" {
		h.Set(wire.HeaderVersion, p.version)
	}
	if p.session != "" {
		h.Set(wire.HeaderSession, p.session)
	}
	if p.modern {
		h.Set(wire.HeaderMethod, method)
		if name != "" {
			h.Set(wire.HeaderName, wire.Encode(name))
		}
	}
	return h
}

// ask sends one request of our own and returns its result. members are those
// of params, without braces.
func (p *peer) ask(ctx context.Context, method, name string, members []byte) ([]byte, error) {
	id := strconv.FormatInt(p.f.ids.Add(1), 10)
	if p.modern {
		if len(members) > 0 {
			members = append(members, ',')
		}
		members = append(append(members, `"_meta":`...), p.meta()...)
	}
	body := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":%q,"params":{%s}}`, id, method, members)
	answer, err := p.post(ctx, method, name, body)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	b, err := response(answer, id)
	if err != nil {
		return nil, err
	}
	if s := answer.Header.Get(wire.HeaderSession); s != "" && method == "initialize" {
		p.session = s
	}
	whole := wire.Whole(b)
	if failure := wire.Find(b, whole, "error"); failure.Present() {
		message, _ := wire.Text(b, wire.Find(b, failure, "message"))
		return nil, ErrDiscovery.Say("the MCP server answered %s with an error: %s", method, clip(message))
	}
	return wire.Find(b, whole, "result").Of(b), nil
}

// tell sends a notification.
func (p *peer) tell(ctx context.Context, method string) error {
	answer, err := p.post(ctx, method, "", fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%q}`, method))
	if err != nil {
		return err
	}
	discard(answer.Body)
	return nil
}

// end ends the session, if there is one.
func (p *peer) end(ctx context.Context) {
	if p.session == "" {
		return
	}
	t, ok := p.f.o.Registry.Tool(p.conn.Name, "mcp:session/delete")
	if !ok {
		return
	}
	answer, err := p.send(ctx, p.call(t, &gateway.Upstream{Method: http.MethodDelete, Header: p.header("", "")}))
	if err == nil {
		discard(answer.Body)
	}
}

func (p *peer) post(ctx context.Context, method, name string, body []byte) (*gateway.Answer, error) {
	t, ok := p.f.o.Registry.Tool(p.conn.Name, connections.Protocol+method)
	if !ok { // a connection that is about to be registered has no tools yet
		t = connections.Tool{Connection: p.conn.Name, Name: connections.Protocol + method, Effect: connections.Read, Status: connections.StatusPinned, Builtin: true}
	}
	return p.send(ctx, p.call(t, &gateway.Upstream{Method: http.MethodPost, Header: p.header(method, name), Body: body}))
}

func (p *peer) call(t connections.Tool, up *gateway.Upstream) *gateway.Call {
	return &gateway.Call{Connection: p.conn, Tool: t, Request: up}
}

// response reads the answer to the request id, which may come after other
// messages in an event stream. Requests of the server are not answered: we
// declared no capability that would let it make any. The result is strict JSON.
func response(a *gateway.Answer, id string) ([]byte, error) {
	kind := media(a.Header.Get("Content-Type"))
	if a.Status/100 != 2 && kind != "application/json" {
		return nil, ErrDiscovery.Say("the MCP server answered with HTTP status %d", a.Status)
	}
	switch kind {
	case "application/json":
		b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer+1))
		switch {
		case err != nil:
			return nil, err
		case len(b) > maxAnswer || !answers(b, id):
			return nil, ErrDiscovery.Say("the MCP server's answer is not an answer to the request")
		}
		return b, nil
	case "text/event-stream":
		r := wire.NewReader(a.Body, maxAnswer)
		for {
			e, err := r.Next()
			if err == io.EOF {
				return nil, ErrDiscovery.Say("the MCP server ended its answer before the result")
			}
			if err != nil {
				return nil, err
			}
			if answers(e.Data, id) {
				return e.Data, nil
			}
		}
	}
	return nil, ErrDiscovery.Say("the MCP server answered neither JSON nor an event stream")
}

func answers(b []byte, id string) bool {
	if wire.Check(b) != nil {
		return false
	}
	whole := wire.Whole(b)
	failed := wire.Find(b, whole, "error").Present()
	if got := string(wire.Find(b, whole, "id").Of(b)); got != id && !(failed && (got == "null" || got == "")) {
		return false
	}
	return failed || wire.Find(b, whole, "result").Present()
}
