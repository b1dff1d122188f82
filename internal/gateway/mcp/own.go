package mcp

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// What this front answers itself: how an agent's held calls stand. A model asks
// with the tool check_approval, a client that can with tasks (tasks.go).

// checkTool is the tool's name. It has no connection before it, so that no
// upstream's tool has its name at the aggregated endpoint; at a connection's
// own, an upstream's tool of the name comes first.
const checkTool = "check_approval"

const checkDefinition = `{"name":"check_approval","title":"Check an approval",` +
	`"description":"Tells how a call stands that waits for the approval of people, and returns its result once it was made. Give the id that the pending result named.",` +
	`"inputSchema":{"type":"object","properties":{"id":{"type":"string","description":"the approval's id, apr_…"},` +
	`"wait":{"type":"integer","minimum":0,"maximum":50,"description":"seconds to wait for a decision before answering"}},"required":["id"],"additionalProperties":false},` +
	`"annotations":{"readOnlyHint":true,"openWorldHint":false}}`

// isOwn reports whether the message is answered by this front.
func (x *exchange) isOwn() bool {
	if x.msg.Kind != wire.Request {
		return false
	}
	if x.isGrant() || x.isScope() {
		return true
	}
	if x.method == "tools/call" {
		_, theirs := x.f.o.Registry.Tool(x.conn.Name, checkTool)
		return x.msg.Name == checkTool && !(theirs && x.conn.Name != "")
	}
	return x.ownTask()
}

// own answers such a message.
func (x *exchange) own() {
	var result []byte
	var err error
	switch {
	case x.msg.Kind == wire.Response:
		x.w.WriteHeader(http.StatusAccepted)
		return
	case x.isGrant():
		result, err = x.grant()
	case x.isScope():
		result, err = x.scope()
	case x.method == "tools/call":
		result, err = x.check()
	default:
		result, err = x.tellTask()
	}
	switch e, ok := errors.AsType[*wire.Error](err); {
	case ok:
		x.json(http.StatusOK, wire.AppendError(nil, x.id(), e.Code, e.Message, x.lacking(e)))
	case err != nil:
		x.refuseOwn(gateway.Refuse(err))
	default:
		x.json(http.StatusOK, wire.AppendResult(nil, x.id(), result))
	}
}

// refuseOwn says that the agent asks about what is not its own, in the words
// of each way of asking.
func (x *exchange) refuseOwn(r *gateway.Refusal) {
	if r.Code != gateway.ErrUnknownRequest.Code {
		x.refuse(r)
		return
	}
	if x.method == "tools/call" {
		x.json(http.StatusOK, wire.AppendResult(nil, x.id(), x.said(r.Reason, true, nil)))
		return
	}
	x.json(http.StatusOK, wire.AppendError(nil, x.id(), errNoTask.Code, errNoTask.Message, nil))
}

// ask asks the line. A connection's endpoint tells of that connection alone.
func (x *exchange) ask(request string, most time.Duration) (*gateway.Waiting, error) {
	w, err := x.f.o.Line.Ask(x.r.Context(), x.who, request, most)
	if err == nil && x.conn.Name != "" && w.Connection != x.conn.Name {
		return nil, gateway.Refuse(gateway.ErrUnknownRequest)
	}
	return w, err
}

// check answers check_approval.
func (x *exchange) check() ([]byte, error) {
	b := x.msg.Raw
	request, ok := wire.Text(b, wire.Find(b, x.msg.Arguments, "id"))
	if !ok {
		return nil, &wire.Error{Code: wire.CodeParams, Message: checkTool + " needs the id of an approval"}
	}
	seconds, most := wire.Find(b, x.msg.Arguments, "wait"), time.Duration(0)
	if seconds.Present() {
		n, err := strconv.ParseUint(string(seconds.Of(b)), 10, 16)
		if err != nil {
			return nil, &wire.Error{Code: wire.CodeParams, Message: "wait must be a whole number of seconds"}
		}
		most = time.Duration(n) * time.Second
	}
	w, err := x.ask(request, most)
	if err != nil {
		return nil, err
	}
	if w.State == approvals.Executed {
		answer, err := x.collect(w)
		if err != nil {
			return nil, err
		}
		result, failure := parts(answer)
		if result != nil {
			return result, nil
		}
		return x.said(w.Why+" ("+w.Executed+"); "+failed(failure, "its answer is not kept"), true, w), nil
	}
	return x.said(standing(w), w.State.Settled(), w), nil
}

// parts returns the raw result or error of an answer; neither of one that is
// not kept.
func parts(answer []byte) (result, failure []byte) {
	if answer == nil {
		return nil, nil
	}
	whole := wire.Whole(answer)
	return wire.Find(answer, whole, "result").Of(answer), wire.Find(answer, whole, "error").Of(answer)
}

// failed returns the message of a JSON-RPC error, or otherwise.
func failed(failure []byte, otherwise string) string {
	if failure == nil {
		return otherwise
	}
	_, message := failing(failure)
	return "the server answered with an error: " + message
}

// failing returns what a JSON-RPC error says.
func failing(failure []byte) (code int, message string) {
	whole := wire.Whole(failure)
	code, err := strconv.Atoi(string(wire.Find(failure, whole, "code").Of(failure)))
	if err != nil {
		code = wire.CodeInternal
	}
	message, _ = wire.Text(failure, wire.Find(failure, whole, "message"))
	return code, clip(message)
}

// standing says how a request stands that was not executed, and what to do.
func standing(w *gateway.Waiting) string {
	switch {
	case w.State == approvals.Pending && w.Server:
		return fmt.Sprintf("Pending: nobody has decided enough about %s (%s) yet; it is open until %s. The call is made when it is approved; ask again then for its result.", w.ID, w.URL, w.DecideBy.UTC().Format(time.RFC3339))
	case w.State == approvals.Pending:
		return fmt.Sprintf("Pending: nobody has decided enough about %s (%s) yet; it is open until %s.", w.ID, w.URL, w.DecideBy.UTC().Format(time.RFC3339))
	case w.State == approvals.Approved && !w.Server:
		return "Approved: repeat the identical call now; it is made then, once."
	case w.State == approvals.Approved, w.State == approvals.Executing:
		return "Approved: the call is being made now; ask again in a moment for its result."
	}
	return "Not made: " + w.Why + "."
}

// said is a tool result of ours.
func (x *exchange) said(text string, isError bool, w *gateway.Waiting) []byte {
	out := append([]byte(`{"content":[{"type":"text","text":`), wire.Quote(text)...)
	out = append(out, `}],"isError":`+strconv.FormatBool(isError)...)
	if w != nil {
		out = fmt.Appendf(out, `,"structuredContent":{"id":%q,"state":%q,"url":%s,"decide_by":%q,"retry_after":%d,"why":%s}`,
			w.ID, w.State, wire.Quote(w.URL), w.DecideBy.UTC().Format(time.RFC3339), int(w.Retry/time.Second), wire.Quote(w.Why))
	}
	if x.modern {
		out = append(out, `,"resultType":"complete"`...)
	}
	return append(out, '}')
}

// collect returns the answer to an executed call as one message under this
// request's id, nil if it is not kept.
func (x *exchange) collect(w *gateway.Waiting) ([]byte, error) {
	c, ok := x.f.o.Registry.Connection(w.Connection)
	t, known := x.f.o.Registry.Tool(w.Connection, w.Tool)
	if !ok || !known {
		return nil, gateway.ErrUnknownRequest
	}
	in := gateway.Incoming{Front: "mcp", Connection: x.conn.Name, Remote: x.r.RemoteAddr, Client: x.r.UserAgent()}
	kept, err := x.f.o.Line.Collect(x.r.Context(), in, x.who, w, &gateway.Call{Connection: c, Tool: t})
	if err != nil || kept == nil {
		return nil, err
	}
	return x.reply(http.Header(kept.Header).Get("Content-Type"), kept.Body), nil
}

// mayWait reports whether the agent may use a tool on the connection whose
// calls may have to wait for people: then it is of use to it to be able to ask.
func (f *Front) mayWait(who identity.Caller, c connections.Connection) bool {
	for _, t := range f.o.Registry.Tools(c.Name) {
		if t.Offered() && f.o.Line.Visible(who, c, t) && f.o.Line.MayHold(who, c, t) {
			return true
		}
	}
	return false
}

// offerCheck adds check_approval to the last page of a connection's tools.
func (f *Front) offerCheck(who identity.Caller, c connections.Connection, b []byte) []byte {
	result := wire.Find(b, wire.Whole(b), "result")
	at := wire.Find(b, result, "tools")
	_, theirs := f.o.Registry.Tool(c.Name, checkTool)
	if cursor, more := wire.Text(b, wire.Find(b, result, "nextCursor")); theirs || !at.Present() || b[at.Start] != '[' || (more && cursor != "") || !f.mayWait(who, c) {
		return b
	}
	with := []byte(checkDefinition)
	if len(wire.Items(b, at)) > 0 {
		with = append([]byte{','}, with...)
	}
	return wire.Splice(b, wire.Edit{At: wire.Span{Start: at.End - 1, End: at.End - 1}, With: with})
}
