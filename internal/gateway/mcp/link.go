package mcp

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// linked is what a client sends back after it was asked to show its person
// where to decide.
type linked struct {
	there  bool
	opened bool // the person agreed to open it
}

const linkKey = "approval"

// opensLinks reports whether the client can show its person a URL: the newer
// era's says so with the request, the older one's when its session began.
func (x *exchange) opensLinks() bool {
	if x.modern {
		return opens(x.msg.Raw, wire.Find(x.msg.Raw, x.msg.Meta, wire.MetaCapabilities))
	}
	return x.links
}

func opens(b []byte, caps wire.Span) bool { return wire.Path(b, caps, "elicitation", "url").Present() }

// linkResult asks the client to show its person where to decide (MRTR,
// SEP-2322; elicitation in URL mode). Whoever opens the URL has to sign in there:
// that they agreed says nothing about the call.
func (x *exchange) linkResult(r *gateway.Refusal) []byte {
	out := append([]byte(`{"resultType":"input_required","inputRequests":{"`+linkKey+`":{"method":"elicitation/create","params":{"mode":"url","message":`),
		wire.Quote(sentence(r)+". Decide there, then come back")...)
	out = append(append(out, `,"url":`...), wire.Quote(r.Approval.URL)...)
	out = append(append(out, `}}},"requestState":`...), wire.Quote(x.f.sealFor(x.who, x.conn, "link", r.Approval.ID))...)
	return append(append(append(out, `,"_meta":`...), where(r)...), '}')
}

// unlink takes what answers linkResult out of a repeated call, which then has
// the bytes that it had before: what is approved, and what is forwarded.
func (x *exchange) unlink() error {
	b := x.msg.Raw
	state, ok := wire.Text(b, wire.Find(b, x.msg.Params, "requestState"))
	if x.method != "tools/call" || !ok || !strings.HasPrefix(state, sealed) {
		return nil
	}
	if _, ok := x.f.openFor(x.who, x.conn, "link", state); !ok {
		return x.fail(&wire.Error{Code: wire.CodeParams, Message: "requestState is not what this agent was given for this call", ID: x.id()}, http.StatusOK)
	}
	action, _ := wire.Text(b, wire.Path(b, x.msg.Params, "inputResponses", linkKey, "action"))
	m, err := wire.Scan(wire.Splice(b, wire.Edit{At: x.msg.Params, With: bytes.Clone(without(b, x.msg.Params, "requestState", "inputResponses"))}))
	if err != nil {
		return x.fail(err, 0)
	}
	x.msg, x.linked = m, linked{there: true, opened: action == "accept"}
	return nil
}

// withLinks is the purpose of the sealed session of an older client that can
// show its person a URL: that is all we have to remember of it.
const withLinks = "session/links"

// sessionPurpose is what the session that an upstream gives now is sealed for.
func (x *exchange) sessionPurpose() string {
	if x.links || x.method == "initialize" && opens(x.msg.Raw, wire.Find(x.msg.Raw, x.msg.Params, "capabilities")) {
		return withLinks
	}
	return "session"
}

// openSession returns the upstream's session, and notes what its client can do.
func (x *exchange) openSession(token string) (session string, ok bool) {
	if session, ok = x.f.openFor(x.who, x.conn, "session", token); ok {
		return session, true
	}
	session, x.links = x.f.openFor(x.who, x.conn, withLinks, token)
	return session, x.links
}

// shown are the questions to people where they sit, by the identifiers of the
// questions: what a client answers may come in another request.
type shown struct {
	mu   sync.Mutex
	open map[string]context.CancelFunc
}

// elicit asks an older client, in the stream of its held call, to show its
// person where to decide. ctx ends when the person does not want to.
func (x *exchange) elicit(ctx context.Context, w *late, r *gateway.Refusal) (context.Context, context.CancelFunc) {
	token := x.f.sealFor(x.who, connections.Connection{}, "shown", r.Approval.ID)
	ctx, cancel := context.WithCancel(ctx)
	x.f.shown.mu.Lock()
	x.f.shown.open[token] = cancel
	x.f.shown.mu.Unlock()
	w.event(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":"elicitation/create","params":{"mode":"url","elicitationId":%q,"message":%s,"url":%s}}`,
		wire.Quote(token), r.Approval.ID, wire.Quote(sentence(r)+". Decide there, then come back"), wire.Quote(r.Approval.URL)))
	return ctx, func() {
		cancel()
		x.f.shown.mu.Lock()
		delete(x.f.shown.open, token)
		x.f.shown.mu.Unlock()
	}
}

// answersLink reports whether the message is a client's answer to such a
// question. That a person agreed to open the page says nothing about the call;
// where they did not, nobody waits for them. Another replica's question is left
// to its time.
func (x *exchange) answersLink() bool {
	if x.msg.Kind != wire.Response {
		return false
	}
	b := x.msg.Raw
	token, _ := wire.Text(b, x.msg.ID)
	if _, ok := x.f.openFor(x.who, connections.Connection{}, "shown", token); !ok {
		return false
	}
	if action, _ := wire.Text(b, wire.Find(b, x.msg.Result, "action")); action != "accept" {
		x.f.shown.mu.Lock()
		defer x.f.shown.mu.Unlock()
		if stop := x.f.shown.open[token]; stop != nil {
			stop()
		}
	}
	return true
}
