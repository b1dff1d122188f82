package mcp

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// refuse tells the client why its request got no answer from the upstream, in
// the words that MCP has for it.
func (x *exchange) refuse(r *gateway.Refusal) {
	id := x.id()
	locked := r.Code == gateway.CodeLocked && x.method == ""                           // the agent is, whatever it asks for
	if x.absent || (r.Denied() && !locked && x.hidden() && x.method != "tools/call") { // the same bytes as for one that is not there
		r = &gateway.Refusal{Kind: gateway.ErrConnection.Kind, Code: gateway.ErrConnection.Code, Reason: gateway.ErrConnection.Message, Event: r.Event}
		x.json(http.StatusNotFound, failure(nil, r))
		return
	}
	switch {
	case x.wrong != nil:
		if id == nil {
			id = x.wrong.ID
		}
		x.json(orStatus(x.status, http.StatusBadRequest), wire.AppendError(nil, id, x.wrong.Code, x.wrong.Message, where(r)))
	case r.Code == gateway.CodeScope:
		x.w.Header().Set("WWW-Authenticate", x.challenge(r))
		x.json(http.StatusForbidden, failure(id, r))
	case r.Kind == fault.Unauthenticated:
		x.w.Header().Set("WWW-Authenticate", x.challenge(r))
		x.json(http.StatusUnauthorized, wire.AppendError(nil, id, wire.CodeUnauthorized, r.Reason, where(r)))
	case r.Held() && r.Approval != nil && id != nil && x.tasks():
		x.json(http.StatusOK, wire.AppendResult(nil, id, x.taskResult(r)))
	case r.Held() && r.Approval != nil && id != nil && r.Approval.Self && x.modern && x.method == "tools/call" && x.opensLinks() && !x.linked.there:
		x.json(http.StatusOK, wire.AppendResult(nil, id, x.linkResult(r)))
	case r.Denied() && x.task.there: // to whom a result would be no task
		x.json(http.StatusOK, failure(id, r))
	case r.Denied() && x.method == "tools/call" && id != nil:
		x.json(http.StatusOK, wire.AppendResult(nil, id, x.refusedResult(r)))
	case r.Code == ErrMethod.Code:
		x.w.Header().Set("Allow", "POST, GET, DELETE")
		x.json(http.StatusMethodNotAllowed, failure(id, r))
	default:
		x.json(orStatus(x.status, status(r, id)), failure(id, r))
	}
}

// challenge says how to get a token that would do (MCP, authorization).
func (x *exchange) challenge(r *gateway.Refusal) string {
	if x.f.o.Challenge == nil {
		return `Bearer realm="countersign"`
	}
	return x.f.o.Challenge(x.r.Context(), x.who, strings.TrimRight(x.r.URL.Path, "/"), r.Scope, x.r.Header.Get("Authorization") != "")
}

// hidden reports whether the agent has no business on the connection any more.
func (x *exchange) hidden() bool { return x.conn.Name == "" || !x.anything() }

// status is the HTTP status of a refusal. A well-formed request gets its error
// in JSON-RPC: clients of all ages understand that, and many of them give up
// the whole session on a 5xx.
func status(r *gateway.Refusal, id []byte) int {
	switch {
	case id != nil && (r.Kind == fault.Denied || r.Kind == fault.Upstream || passing(r)):
		return http.StatusOK
	case r.Kind == fault.Internal:
		return http.StatusInternalServerError
	}
	return r.Kind.Status()
}

func orStatus(status, otherwise int) int {
	if status != 0 {
		return status
	}
	return otherwise
}

// failure is a refusal as a JSON-RPC error.
func failure(id []byte, r *gateway.Refusal) []byte {
	code := wire.CodeUnreachable
	switch r.Kind {
	case fault.Denied, fault.NotFound, fault.Invalid:
		code = wire.CodeInvalid
	case fault.Unauthenticated:
		code = wire.CodeUnauthorized
	case fault.Internal:
		code = wire.CodeInternal
	}
	if r.Denied() {
		code = wire.CodeParams
	}
	return wire.AppendError(nil, id, code, sentence(r), where(r))
}

// where is the data of an error: what a person can look up, and when to try
// again.
func where(r *gateway.Refusal) []byte {
	out := append([]byte(`{"countersign":{"code":`), wire.Quote(r.Code)...)
	for _, m := range []struct{ name, value string }{{"event", r.Event}, {"call", r.Call}, {"run", r.Run}} {
		if m.value != "" {
			out = append(append(out, `,"`+m.name+`":`...), wire.Quote(m.value)...)
		}
	}
	if r.Approval != nil {
		out = append(append(out, `,"approval":`...), wire.Quote(r.Approval.ID)...)
		out = append(append(out, `,"url":`...), wire.Quote(r.Approval.URL)...)
	}
	if r.RetryAfter > 0 {
		out = append(out, `,"retry_after":`+strconv.Itoa(int(r.RetryAfter/time.Second))...)
	}
	return append(out, "}}"...)
}

// sentence is the reason with the advice of the policies.
func sentence(r *gateway.Refusal) string {
	return strings.Join(append([]string{r.Reason}, r.Advice...), ". ")
}

// passing reports whether the call may be made later as it is.
func passing(r *gateway.Refusal) bool {
	return r.Code == gateway.CodeBudget || r.Code == gateway.CodeLimited
}

// refusedResult is a refused tools/call as a result that a model can act on.
func (x *exchange) refusedResult(r *gateway.Refusal) []byte {
	text := "Denied by Countersign: " + sentence(r) + ". Do not retry this call unchanged."
	if passing(r) {
		text = "Refused by Countersign: " + sentence(r) + "."
		if r.RetryAfter > 0 {
			text += " Do not retry this call within " + strconv.Itoa(int((r.RetryAfter+time.Second-1)/time.Second)) + " seconds."
		}
	}
	failed := true
	if r.Held() {
		text = "Pending: " + sentence(r) + ". The call was not made. Recorded as " + r.Event + "."
		if r.Approval != nil {
			text = fmt.Sprintf("Pending: %s. The call was not made yet. Approval %s (%s), to be decided until %s. Repeat the identical call in %d seconds to learn what people decided, or ask with "+checkTool+"; it is made then if they approved.",
				sentence(r), r.Approval.ID, r.Approval.URL, r.Approval.DecideBy.UTC().Format(time.RFC3339), int(r.RetryAfter/time.Second))
		}
		// Clients refuse a result without structured content from a tool that
		// promises some, unless it is an error.
		t, _ := x.f.o.Registry.Tool(x.conn.Name, x.msg.Name)
		failed = wire.Check(t.Definition) == nil && wire.Find(t.Definition, wire.Whole(t.Definition), "outputSchema").Present()
	}
	out := append([]byte(`{"content":[{"type":"text","text":`), wire.Quote(text)...)
	out = append(out, `}],"isError":`+strconv.FormatBool(failed)...)
	if x.modern {
		out = append(out, `,"resultType":"complete"`...)
	}
	out = append(append(out, `,"_meta":`...), where(r)...)
	return append(out, '}')
}

func (x *exchange) json(status int, body []byte) {
	h := x.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body) // a client that went away needs no answer
}
