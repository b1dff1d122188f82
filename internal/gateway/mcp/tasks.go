package mcp

import (
	"fmt"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/id"
)

// Held calls as tasks. In the newer era a client declares the Tasks extension
// (SEP-2663) and is given a task in place of the answer; in 2025-11-25 it asks
// for one with the call (SEP-1686, oldtasks.go). A held call's task has the
// identifier of its request.

// extTasks is the identifier of the Tasks extension.
const extTasks = "io.modelcontextprotocol/tasks"

// taskPoll is how often a client had better ask for a task.
const taskPoll = 5 * time.Second

// tasks reports whether the client can be given a task in place of the answer
// to this very request.
func (x *exchange) tasks() bool { return x.declaresTasks() || x.task.there && !x.task.passed }

// declaresTasks reports whether the request declares the extension.
func (x *exchange) declaresTasks() bool {
	return x.modern && wire.Path(x.msg.Raw, x.msg.Meta, wire.MetaCapabilities, "extensions", extTasks).Present()
}

// taskMethods are those about a task: in the newer era, and in the older one.
var taskMethods = map[bool][]string{true: {"tasks/get", "tasks/cancel", "tasks/update"}, false: {"tasks/get", "tasks/cancel", "tasks/result"}}

func (x *exchange) aboutTask() bool { return slices.Contains(taskMethods[x.modern], x.method) }

// ownTask reports whether the message is about a task that we gave.
func (x *exchange) ownTask() bool {
	s := x.taskID()
	return x.aboutTask() && (id.Is(id.Approval, s) || id.Is(id.Task, s))
}

func (x *exchange) taskID() string {
	s, _ := wire.Text(x.msg.Raw, wire.Find(x.msg.Raw, x.msg.Params, "taskId"))
	return s
}

var errNoTask = &wire.Error{Code: wire.CodeParams, Message: "Failed to retrieve task: Task not found"}

// lacking is the data of the error that names a missing capability.
func (x *exchange) lacking(e *wire.Error) []byte {
	if e.Code != wire.CodeCapability {
		return nil
	}
	return fmt.Appendf(nil, `{"requiredCapabilities":{"extensions":{%q:{}}}}`, extTasks)
}

// task answers the methods about a task that we gave.
func (x *exchange) tellTask() ([]byte, error) {
	if !x.modern {
		return x.oldTask()
	}
	if !x.declaresTasks() {
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
	e, err := x.ending(w)
	if err != nil {
		return nil, err
	}
	status, payload := "working", []byte(nil)
	switch {
	case w.State == approvals.Void:
		status = "cancelled"
	case e.result != nil:
		status, payload = "completed", append([]byte(`"result":`), e.result...)
	case e.failure != nil:
		status, payload = "failed", append([]byte(`"error":`), e.failure...)
	}
	out := append([]byte(`{"resultType":"complete",`), taskMembers(w, status, e.message, "Ms")...)
	if payload != nil {
		out = append(append(out, ','), payload...)
	}
	return append(out, '}'), nil
}

// ended is what a task came to: a raw result or error, neither of one that has
// not ended or was cancelled.
type ended struct {
	result, failure []byte
	bad             bool // the result says that the call failed
	message         string
}

func (x *exchange) ending(w *gateway.Waiting) (ended, error) {
	e := ended{message: standing(w)}
	switch w.State {
	case approvals.Denied, approvals.Expired:
		e.result, e.bad = x.said("Denied by Countersign: "+w.Why+". Do not retry this call unchanged.", true, nil), true
	case approvals.Executed:
		answer, err := x.collect(w)
		if err != nil {
			return e, err
		}
		e.message = w.Why
		if e.result, e.failure = parts(answer); e.result == nil && e.failure == nil {
			e.result = x.said(w.Why+" ("+w.Executed+"); its answer is not kept. Look at what it did before asking for it again.", true, nil)
		}
		e.bad = e.result != nil && string(wire.Find(e.result, wire.Whole(e.result), "isError").Of(e.result)) == "true"
	}
	return e, nil
}

// taskMembers are the members of a Task. In 2025-11-25 those that are
// milliseconds do not say so in their names.
func taskMembers(w *gateway.Waiting, status, message, unit string) []byte {
	return fmt.Appendf(nil, `"taskId":%q,"status":%q,"statusMessage":%s,"createdAt":%q,"lastUpdatedAt":%q,"ttl%s":%d,"pollInterval%s":%d`,
		w.ID, status, wire.Quote(message), w.Created.UTC().Format(time.RFC3339), w.Changed.UTC().Format(time.RFC3339), unit, w.Until.Sub(w.Created).Milliseconds(), unit, taskPoll.Milliseconds())
}

// taskResult gives the client a task in place of the answer to its held call.
func (x *exchange) taskResult(r *gateway.Refusal) []byte {
	if !x.modern {
		return oldTaskResult(r.Approval, "working", standing(r.Approval), where(r))
	}
	out := append([]byte(`{"resultType":"task",`), taskMembers(r.Approval, "working", standing(r.Approval), "Ms")...)
	return append(append(append(out, `,"_meta":`...), where(r)...), '}')
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
