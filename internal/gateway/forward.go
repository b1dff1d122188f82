package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/inspection/content"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/secrets"
)

const (
	deniedKind = fault.Denied
	callHeader = "X-Countersign-Call"
)

// forward sends a call whose intent is durable, and sees to it that its outcome
// is recorded exactly once, whatever happens from here on.
func (g *Gateway) forward(client context.Context, receipt audit.Receipt, call *Call) (answer *Answer, err error) {
	g.flight.enter()
	if call.permit != nil { // approved once: its end must be seen, whether or not the client stays
		client = context.WithoutCancel(client)
	}
	ctx, cancel := context.WithCancelCause(client)
	a := &answerBody{closed: make(chan struct{}), g: g, receipt: receipt, call: call, client: client, ctx: ctx, cancel: cancel, began: time.Now(), length: -1, idle: g.idle(call)}
	g.standing.add(a)
	if g.o.Used != nil && call.credential != "" { // not a call of our own
		g.o.Used(call.Connection.Name, call.Started)
	}
	defer func() {
		if p := recover(); p != nil {
			g.o.Logger.Error("panic while forwarding", "call", call.ID, "panic", p, "stack", string(debug.Stack()))
			answer, err = nil, g.refuse(call, receipt, ErrPanic, true)
		}
		if err != nil {
			a.fail(err)
		}
	}()
	// From here on a lock finds the call here and cuts it.
	if err := g.overtaken(call); err != nil {
		return nil, g.refuse(call, receipt, err, false)
	}
	if err := g.remember(call); err != nil {
		return nil, g.refuse(call, receipt, err, false)
	}
	resp, err := g.send(ctx, receipt, call)
	if err != nil {
		return nil, a.broken(err, sent(err))
	}
	a.answered(resp.StatusCode)
	if err := unacceptable(resp, call.Request); err != nil {
		resp.Body.Close()
		return nil, g.refuse(call, receipt, err, true)
	}
	cleanAnswer(resp.Header)
	trailer := trailerOf(resp)
	a.watch() // from here on the upstream may not fall silent
	if err := a.prepare(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	if err := a.open(resp); err != nil {
		return nil, err
	}
	answer = &Answer{Status: resp.StatusCode, Header: resp.Header, Body: a, Call: call.ID, Event: receipt.Event(), Run: call.Run, Trailer: trailer}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		answer.Upgraded, answer.Messages = a.upgraded(), a
	}
	if p := call.permit; p != nil && call.resume == nil { // of a resumed call there is nobody to tell
		answer.Told = func() { p.Told(client) }
	}
	return answer, nil
}

// overtaken says why a call that was decided and recorded may not go out any more:
// a lock came into force meanwhile, its release was rolled back, or recording it took too long.
func (g *Gateway) overtaken(call *Call) error {
	if err := g.locked(call); err != nil {
		return err
	}
	if err := g.stands(call); err != nil {
		return err
	}
	if r := call.resume; r != nil && !r.Before.IsZero() && time.Now().After(r.Before) {
		return ErrOvertime
	}
	if call.reserved.Late() {
		return budget.ErrLate
	}
	return nil
}

// prepare has the answer inspected, and then read by its front.
func (a *answerBody) prepare(resp *http.Response) error {
	if err := sized(a.call, resp); err != nil {
		return a.g.refuse(a.call, a.receipt, err, true)
	}
	if err := a.g.lookedAt(a.call, resp); err != nil {
		return a.g.refuse(a.call, a.receipt, err, true)
	}
	if a.call.Rewrite == nil {
		return nil
	}
	if err := a.call.Rewrite(resp); err != nil {
		return a.rewriteFailed(err)
	}
	return nil
}

func (g *Gateway) idle(call *Call) time.Duration {
	switch {
	case call.Request.Idle < 0:
		return 0
	case call.Request.Idle > 0:
		return call.Request.Idle
	}
	return g.o.IdleTimeout
}

// fail ends a call that has no answer.
func (a *answerBody) fail(err error) {
	a.mu.Lock()
	a.settle(err)
	a.mu.Unlock()
	a.cancel(err)
	a.leave()
}

// send makes the request and its one attempt.
func (g *Gateway) send(ctx context.Context, receipt audit.Receipt, call *Call) (*http.Response, error) {
	if !receipt.For(call.ID) {
		return nil, ErrNoReceipt
	}
	carrier, base, own := g.transports.own(call.Connection)
	if !own {
		return g.sendHTTP(ctx, receipt, call)
	}
	if carrier == nil {
		return nil, ErrTransport
	}
	req, err := newRequest(ctx, call, base)
	if err != nil {
		return nil, err
	}
	return carrier.Send(ctx, receipt, call, req)
}

// Engine makes one request of a transport's own to the connection's URL, for a
// call that has its receipt: with the connection's secret, which the answer does
// not show, and to no address that the connection may not have. What the agent
// sent is no part of it but by up.
func (g *Gateway) Engine(ctx context.Context, receipt audit.Receipt, call *Call, up *Upstream) (*http.Response, error) {
	if !receipt.For(call.ID) {
		return nil, ErrNoReceipt
	}
	inner := &Call{Connection: call.Connection, Tool: call.Tool, ID: call.ID, Who: call.Who, Request: up}
	resp, err := g.sendHTTP(ctx, receipt, inner)
	if err != nil {
		return nil, err
	}
	if err := unacceptable(resp, up); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func (g *Gateway) sendHTTP(ctx context.Context, receipt audit.Receipt, call *Call) (*http.Response, error) {
	c := call.Connection
	up, err := g.transports.of(c)
	if err != nil {
		return nil, err
	}
	req, err := newRequest(ctx, call, up.base)
	if err != nil {
		return nil, err
	}
	use := secrets.Use{Call: call.ID, Secret: c.Secret, Connection: c.Name, Agent: call.Who.Agent.Name, Host: req.URL.Host}
	secret, encoded, err := g.inject(receipt, call, req, use)
	if err != nil {
		return nil, err
	}
	resp, err := up.http.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	call.veil(resp, secret, encoded)
	if resp.StatusCode != http.StatusUnauthorized || secret == "" {
		return resp, nil
	}
	g.o.Injector.Rejected(use)
	if call.Request.Stream != nil { // what followed the body is gone
		return resp, nil
	}
	return g.again(receipt, call, up, req, use, secret, resp)
}

// veil keeps what was sent as a credential out of an answer, that of an attempt
// before included.
func (c *Call) veil(resp *http.Response, secret string, encoded []string) {
	c.hidden = append(append(c.hidden, secret), encoded...)
	for _, shown := range c.hidden {
		hide(resp, shown)
	}
}

// again makes the request once more if the upstream refused it for its
// credential (401, RFC 9110 section 15.5.2: it was not applied) and there is
// another credential now: it was rotated while the call was on its way. With the
// same one it would be refused again. The outcome says that there were two.
func (g *Gateway) again(receipt audit.Receipt, call *Call, up *upstream, refused *http.Request, use secrets.Use, was string, first *http.Response) (*http.Response, error) {
	req, err := newRequest(refused.Context(), call, up.base)
	if err != nil {
		return first, nil //nolint:nilerr // the refusal stands
	}
	secret, encoded, err := g.inject(receipt, call, req, use)
	if err != nil || secret == was || g.locked(call) != nil || g.stands(call) != nil {
		return first, nil //nolint:nilerr // as above
	}
	first.Body.Close()
	call.attempts.Store(2)
	resp, err := up.http.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	call.veil(resp, secret, encoded)
	return resp, nil
}

// inject puts the upstream's secret on the request: here, and only here. It returns
// the secret, and how else it was written, so that the answer cannot repeat it.
func (g *Gateway) inject(receipt audit.Receipt, call *Call, req *http.Request, use secrets.Use) (secret string, encoded []string, err error) {
	c := call.Connection
	name, prefix := "Authorization", "Bearer "
	switch custom, isCustom := strings.CutPrefix(c.Auth, connections.AuthHeader); {
	case isCustom:
		name, prefix = custom, ""
	case c.Auth == connections.AuthAPIKey:
		name, prefix = "X-Api-Key", ""
	case c.Auth == connections.AuthBearer:
	case c.Auth == connections.AuthBasic:
		prefix = "Basic "
	case c.Auth == connections.AuthNone, c.Auth == "" && c.Secret == "":
		return "", nil, nil
	default:
		return "", nil, ErrSecret.Say("the connection's way of authentication is not known here; ask its owner")
	}
	req.Header.Del(name) // the agent's, if it sent one by that name
	if c.Secret == "" {
		return "", nil, nil
	}
	value, err := g.o.Injector.Inject(req.Context(), receipt, use)
	if err != nil {
		return "", nil, ErrSecret.With(err)
	}
	defer value.Wipe()
	secret = string(value.Expose())
	sent := secret
	if c.Auth == connections.AuthBasic {
		user, password, both := strings.Cut(secret, ":")
		if !both || user == "" {
			return "", nil, ErrSecret.Say("the connection sends its secret as basic, so it must be USER:PASSWORD; ask its owner")
		}
		sent = base64.StdEncoding.EncodeToString([]byte(secret))
		encoded = []string{sent}
		if len(password) >= 8 { // less could be anything
			encoded = append(encoded, password)
		}
	}
	req.Header[http.CanonicalHeaderKey(name)] = []string{prefix + sent}
	return secret, encoded, nil
}

// unacceptable says why a response must not reach the agent.
func unacceptable(resp *http.Response, up *Upstream) error {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		if !up.Redirects {
			return ErrRedirect
		}
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		// It is about our credential, not the agent's, and providers quote parts of it.
		return ErrRejected
	case http.StatusSwitchingProtocols:
		if up.Upgrade == "" || !strings.EqualFold(resp.Header.Get("Upgrade"), up.Upgrade) {
			return ErrAnswer
		}
	}
	return nil
}

// broken turns a failed attempt, or an answer that broke off, into what the
// agent is told.
func (a *answerBody) broken(err error, reached bool) *Refusal {
	timeout, isNet := errors.AsType[net.Error](err)
	_, known := errors.AsType[*fault.Error](err)
	switch {
	case a.client.Err() != nil:
		err = ErrCancelled.With(err)
	case errors.Is(context.Cause(a.ctx), ErrIdle):
		err = ErrIdle
	case stopped(context.Cause(a.ctx)), a.refused():
		err = context.Cause(a.ctx)
	case errors.Is(err, content.ErrBlocked):
		err = ErrInspected.With(err)
	case known:
	case isNet && timeout.Timeout():
		err = ErrTimeout.With(err)
	case a.status != 0: // it had begun to answer
		err = ErrBroken.With(err)
	default:
		err = ErrUpstream.With(err)
	}
	return a.g.refuse(a.call, a.receipt, err, reached)
}

// refused reports whether a message of an upgraded call was, which cut it.
func (a *answerBody) refused() bool {
	_, ok := errors.AsType[*Refusal](context.Cause(a.ctx))
	return ok
}

// stopped reports whether a call ended because we cut it.
func stopped(err error) bool {
	return errors.Is(err, ErrStopped) || errors.Is(err, ErrBlind) || errors.Is(err, locks.ErrLocked) || errors.Is(err, releases.ErrRolled)
}

func (a *answerBody) rewriteFailed(err error) *Refusal {
	if errors.Is(err, ErrResult) {
		err = Refuse(ErrResult)
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		out := *r
		out.Call, out.Event, out.Run, out.Sent = a.call.ID, a.receipt.Event(), a.call.Run, true
		return &out
	}
	_, network := errors.AsType[net.Error](err)
	if a.ctx.Err() != nil || network || errors.Is(err, io.ErrUnexpectedEOF) {
		return a.broken(err, true)
	}
	return a.g.refuse(a.call, a.receipt, ErrAnswer.With(err), true)
}

func (g *Gateway) refuse(call *Call, receipt audit.Receipt, err error, reached bool) *Refusal {
	r := *Refuse(err)
	r.Call, r.Event, r.Run, r.Sent, r.cause = call.ID, receipt.Event(), call.Run, reached, err
	if r.Kind == fault.Internal {
		g.o.Logger.Error("forwarding failed", "call", call.ID, "error", err)
	}
	return &r
}

// sent reports whether the request may have reached the upstream before err.
func sent(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false
	}
	for _, before := range []error{ErrAddress, ErrURL, ErrSecret, ErrNoReceipt, ErrTransport, ErrHeader} {
		if errors.Is(err, before) {
			return false
		}
	}
	return true
}

func newRequest(ctx context.Context, call *Call, base requestBase) (*http.Request, error) {
	up := call.Request
	u, err := base.join(up.Path, up.Query)
	if err != nil {
		return nil, ErrURL.With(err)
	}
	method := up.Method
	if method == "" {
		method = http.MethodPost
	}
	header := cleanRequest(up.Header)
	header[callHeader] = []string{call.ID} // so that both sides' logs can be laid side by side
	req := (&http.Request{Method: method, URL: u, Host: u.Host, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	if up.Upgrade != "" {
		header["Connection"], header["Upgrade"] = []string{"Upgrade"}, []string{up.Upgrade}
	}
	switch {
	case up.Stream != nil:
		// Without GetBody it is sent at most once, whatever happens.
		call.sent = newSending(up)
		req.Body, req.ContentLength = call.sent, up.Length
		if up.Length < 0 {
			req.ContentLength = -1
		}
	case len(up.Body) > 0:
		// GetBody lets the transport start over on a fresh connection, which it
		// does only if it wrote nothing on a stale one: see cleanRequest.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(up.Body)), nil }
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(up.Body)), int64(len(up.Body))
	}
	return req, nil
}
