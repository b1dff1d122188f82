package mcp

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
)

// What this front answers itself: how an agent's held calls stand. A model asks
// with the tool check_approval, a client that declares it with the Tasks
// extension (SEP-2663), whose task identifiers are those of the requests.

// checkTool is the tool's name. It has no connection before it, so that no
// upstream's tool has its name at the aggregated endpoint; at a connection's
// own, an upstream's tool of the name comes first.
const checkTool = "check_approval"

const checkDefinition = `{"name":"check_approval","title":"Check an approval",` +
	`"description":"Tells how a call stands that waits for the approval of people, and returns its result once it was made. Give the id that the pending result named.",` +
	`"inputSchema":{"type":"object","properties":{"id":{"type":"string","description":"the approval's id, apr_…"},` +
	`"wait":{"type":"integer","minimum":0,"maximum":50,"description":"seconds to wait for a decision before answering"}},"required":["id"],"additionalProperties":false},` +
	`"annotations":{"readOnlyHint":true,"openWorldHint":false}}`

// extTasks is the identifier of the Tasks extension.
const extTasks = "io.modelcontextprotocol/tasks"

// taskPoll is how often a client had better ask for a task.
const taskPoll = 5 * time.Second

// tasks reports whether the client declared, with this very request, that it
// can be given a task.
func (x *exchange) tasks() bool {
	return x.modern && wire.Path(x.msg.Raw, x.msg.Meta, wire.MetaCapabilities, "extensions", extTasks).Present()
}

// isOwn reports whether the message is answered by this front.
func (x *exchange) isOwn() bool {
	if x.msg.Kind != wire.Request {
		return false
	}
	switch x.method {
	case "tools/call":
		_, theirs := x.f.o.Registry.Tool(x.conn.Name, checkTool)
		return x.msg.Name == checkTool && !(theirs && x.conn.Name != "")
	case "tasks/get", "tasks/update", "tasks/cancel":
		return x.modern && id.Is(id.Approval, x.taskID())
	}
	return false
}

func (x *exchange) taskID() string {
	s, _ := wire.Text(x.msg.Raw, wire.Find(x.msg.Raw, x.msg.Params, "taskId"))
	return s
}

// own answers such a message.
func (x *exchange) own() {
	var result []byte
	var err error
	if x.method == "tools/call" {
		result, err = x.check()
	} else {
		result, err = x.task()
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

// lacking is the data of the error that names a missing capability.
func (x *exchange) lacking(e *wire.Error) []byte {
	if e.Code != wire.CodeCapability {
		return nil
	}
	return fmt.Appendf(nil, `{"requiredCapabilities":{"extensions":{%q:{}}}}`, extTasks)
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
	x.json(http.StatusOK, wire.AppendError(nil, x.id(), wire.CodeParams, "Failed to retrieve task: Task not found", nil))
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
		result, failure := ending(answer)
		if result != nil {
			return result, nil
		}
		return x.said(w.Why+" ("+w.Executed+"); "+failed(failure, "its answer is not kept"), true, w), nil
	}
	return x.said(standing(w), w.State.Settled(), w), nil
}

// ending returns the raw result or error of an answer; neither of one that is
// not kept.
func ending(answer []byte) (result, failure []byte) {
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
	message, _ := wire.Text(failure, wire.Find(failure, wire.Whole(failure), "message"))
	return "the server answered with an error: " + clip(message)
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

// task answers the methods of the Tasks extension about a held call.
func (x *exchange) task() ([]byte, error) {
	if !x.tasks() {
		return nil, &wire.Error{Code: wire.CodeCapability, Message: "Missing required client capability"}
	}
	w, err := x.ask(x.taskID(), 0)
	if err != nil {
		return nil, err
	}
	switch x.method {
	case "tasks/cancel":
		if err := x.f.o.Line.Withdraw(x.r.Context(), x.who, w); err != nil {
			return nil, err
		}
		return []byte(`{"resultType":"complete"}`), nil
	case "tasks/update": // nothing waits for input of the client
		return []byte(`{"resultType":"complete"}`), nil
	}
	return x.taskState(w)
}

// taskState is the task as tasks/get tells it, with the result of an executed
// call. That people said no, or nothing in time, is a result that a model can act
// on; that it was withdrawn or became void, a cancellation.
func (x *exchange) taskState(w *gateway.Waiting) ([]byte, error) {
	var payload []byte
	status, message := "working", standing(w)
	switch w.State {
	case approvals.Void:
		status = "cancelled"
	case approvals.Denied, approvals.Expired:
		status = "completed"
		payload = append([]byte(`"result":`), x.said("Denied by Countersign: "+w.Why+". Do not retry this call unchanged.", true, nil)...)
	case approvals.Executed:
		answer, err := x.collect(w)
		if err != nil {
			return nil, err
		}
		status, message = "completed", w.Why
		switch result, failure := ending(answer); {
		case result != nil:
			payload = append([]byte(`"result":`), result...)
		case failure != nil:
			status, payload = "failed", append([]byte(`"error":`), failure...)
		default:
			payload = append([]byte(`"result":`), x.said(w.Why+" ("+w.Executed+"); its answer is not kept. Look at what it did before asking for it again.", true, nil)...)
		}
	}
	out := append([]byte(`{"resultType":"complete",`), taskMembers(w, status, message)...)
	if payload != nil {
		out = append(append(out, ','), payload...)
	}
	return append(out, '}'), nil
}

// taskMembers are the members of a Task.
func taskMembers(w *gateway.Waiting, status, message string) []byte {
	return fmt.Appendf(nil, `"taskId":%q,"status":%q,"statusMessage":%s,"createdAt":%q,"lastUpdatedAt":%q,"ttlMs":%d,"pollIntervalMs":%d`,
		w.ID, status, wire.Quote(message), w.Created.UTC().Format(time.RFC3339), w.Changed.UTC().Format(time.RFC3339), w.Until.Sub(w.Created).Milliseconds(), taskPoll.Milliseconds())
}

// taskResult gives the client a task in place of the answer to its held call.
func (x *exchange) taskResult(r *gateway.Refusal) []byte {
	out := append([]byte(`{"resultType":"task",`), taskMembers(r.Approval, "working", standing(r.Approval))...)
	return append(append(append(out, `,"_meta":`...), where(r)...), '}')
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

// offerTasks adds to an upstream's server/discover that this front gives tasks.
func offerTasks(b []byte, result wire.Span) []byte {
	caps := wire.Find(b, result, "capabilities")
	if !caps.Present() || b[caps.Start] != '{' {
		return b
	}
	extensions := wire.Find(b, caps, "extensions")
	switch {
	case !extensions.Present():
		return wire.Splice(b, wire.Set(b, caps, "extensions", fmt.Appendf(nil, "{%q:{}}", extTasks)))
	case b[extensions.Start] != '{' || wire.Find(b, extensions, extTasks).Present():
		return b
	}
	return wire.Splice(b, wire.Set(b, extensions, extTasks, []byte("{}")))
}

// linked is what a client sends back after it was asked to show its person
// where to decide.
type linked struct {
	there  bool
	opened bool // the person agreed to open it
}

const linkKey = "approval"

// opensLinks reports whether the client can show its person a URL.
func (x *exchange) opensLinks() bool {
	return x.modern && wire.Path(x.msg.Raw, x.msg.Meta, wire.MetaCapabilities, "elicitation", "url").Present()
}

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
