package mcp

import (
	"fmt"
	"io"
	"net/http"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
	"github.com/countersign/countersign/internal/identity"
)

// Tasks as the protocol 2025-11-25 has them (SEP-1686): the client asks for one
// with the call, where the list says that the tool can be one. Then it gets one
// whether or not people have to decide: what nobody holds is made at once, and
// its answer is kept for who asks for the task's result.

// wantedTask is that a call of the older era asks for a task.
type wantedTask struct {
	there  bool
	passed bool // it is for the upstream to know what that means
}

// oldTaskCapability is what we declare.
const oldTaskCapability = `{"cancel":{},"requests":{"tools":{"call":{}}}}`

// asksOldTasks reports whether the client speaks the version that has them.
func asksOldTasks(r *http.Request) bool { return r.Header.Get(wire.HeaderVersion) == legacy }

// wantTask looks whether the call asks for a task. The upstream gets that only
// where it is its own business; an approval is for the call without it.
func (x *exchange) wantTask() error {
	if x.modern || x.method != "tools/call" || !asksOldTasks(x.r) || !wire.Find(x.msg.Raw, x.msg.Params, "task").Present() {
		return nil
	}
	t, ok := x.f.o.Registry.Tool(x.conn.Name, x.msg.Name)
	x.task = wantedTask{there: ok, passed: requiresTask(t.Definition) || !x.f.o.Line.MayHold(x.who, x.conn, t)}
	if !ok || x.task.passed {
		return nil
	}
	m, err := wire.Scan(wire.Splice(x.msg.Raw, wire.Edit{At: x.msg.Params, With: without(x.msg.Raw, x.msg.Params, "task")}))
	if err != nil {
		return x.fail(err, 0)
	}
	x.msg = m
	return nil
}

// requiresTask reports whether the upstream makes a call of the tool as a task
// of its own alone.
func requiresTask(definition []byte) bool {
	if wire.Check(definition) != nil {
		return false
	}
	s, _ := wire.Text(definition, wire.Path(definition, wire.Whole(definition), "execution", "taskSupport"))
	return s == "required"
}

// oldTask answers the methods of 2025-11-25.
func (x *exchange) oldTask() ([]byte, error) {
	most := gateway.MostWait
	if x.method != "tasks/result" { // which may wait for the end
		most = 0
	}
	w, err := x.ask(x.taskID(), most)
	if err != nil {
		return nil, err
	}
	switch x.method {
	case "tasks/cancel":
		return x.oldCancel(w)
	case "tasks/result":
		return x.oldPayload(w)
	}
	status, message, err := x.oldStatus(w)
	if err != nil {
		return nil, err
	}
	return append(append([]byte{'{'}, taskMembers(w, status, message, "")...), '}'), nil
}

// oldStatus is a task's status. A call that failed, or was denied, is a failed
// one here.
func (x *exchange) oldStatus(w *gateway.Waiting) (status, message string, err error) {
	e, err := x.ending(w)
	switch {
	case err != nil:
		return "", "", err
	case w.State == approvals.Void:
		return "cancelled", e.message, nil
	case e.failure != nil || e.bad:
		return "failed", e.message, nil
	case e.result != nil:
		return "completed", e.message, nil
	}
	return "working", e.message, nil
}

func (x *exchange) oldCancel(w *gateway.Waiting) ([]byte, error) {
	if w.State.Settled() || w.State == approvals.Executing {
		return nil, &wire.Error{Code: wire.CodeParams, Message: "Cannot cancel task: " + standing(w)}
	}
	if err := x.f.o.Line.Withdraw(x.r.Context(), x.who, w); err != nil {
		return nil, err
	}
	now, err := x.ask(w.ID, 0)
	if err != nil {
		return nil, err
	}
	status, message, err := x.oldStatus(now)
	return append(append([]byte{'{'}, taskMembers(now, status, message, "")...), '}'), err
}

// oldPayload is the answer to the call that the task stands for.
func (x *exchange) oldPayload(w *gateway.Waiting) ([]byte, error) {
	e, err := x.ending(w)
	switch {
	case err != nil:
		return nil, err
	case e.failure != nil:
		code, message := failing(e.failure)
		return nil, &wire.Error{Code: code, Message: message}
	case w.State == approvals.Void:
		e.result = x.said(e.message, true, nil)
	case e.result == nil:
		return nil, &wire.Error{Code: wire.CodeInternal, Message: e.message + " Ask for the result again."}
	}
	related, name := fmt.Appendf(nil, `{"taskId":%q}`, w.ID), "io.modelcontextprotocol/related-task"
	whole := wire.Whole(e.result)
	if meta := wire.Find(e.result, whole, "_meta"); meta.Present() && e.result[meta.Start] == '{' {
		return wire.Splice(e.result, wire.Set(e.result, meta, name, related)), nil
	}
	return wire.Splice(e.result, wire.Set(e.result, whole, "_meta", fmt.Appendf(nil, `{%q:%s}`, name, related))), nil
}

func oldTaskResult(w *gateway.Waiting, status, message string, meta []byte) []byte {
	out := append([]byte(`{"task":{`), taskMembers(w, status, message, "")...)
	return append(append(append(out, `},"_meta":`...), meta...), '}')
}

// answerTask keeps the answer to a call that nobody held and gives the client a
// task that has ended.
func (x *exchange) answerTask(a *gateway.Answer) {
	body, err := io.ReadAll(io.LimitReader(a.Body, approvals.KeepMost+1))
	if err != nil {
		x.refuse(gateway.Refuse(err))
		return
	}
	if a.Status != http.StatusOK || x.reply(a.Header.Get("Content-Type"), body) == nil {
		x.refuse(gateway.Refuse(gateway.ErrAnswer))
		return
	}
	w, err := x.f.o.Line.Keep(x.r.Context(), x.who, x.conn.Name, x.msg.Name, &approvals.Kept{
		Status: a.Status, Header: http.Header{"Content-Type": a.Header["Content-Type"]}, Body: body, Call: a.Call,
	})
	if err != nil {
		x.refuse(gateway.Refuse(err))
		return
	}
	status, message, err := x.oldStatus(w)
	if err != nil {
		x.refuse(gateway.Refuse(err))
		return
	}
	x.w.Header().Set("X-Countersign-Call", a.Call)
	x.json(http.StatusOK, wire.AppendResult(nil, x.id(), oldTaskResult(w, status, message, []byte("{}"))))
	if a.Told != nil && x.r.Context().Err() == nil {
		a.Told()
	}
}

// offerOldTasks adds to an upstream's initialize that this front gives tasks.
func offerOldTasks(b []byte, result wire.Span) []byte {
	version, _ := wire.Text(b, wire.Find(b, result, "protocolVersion"))
	caps := wire.Find(b, result, "capabilities")
	if version != legacy || !caps.Present() || b[caps.Start] != '{' || wire.Find(b, caps, "tasks").Present() {
		return b
	}
	return wire.Splice(b, wire.Set(b, caps, "tasks", []byte(oldTaskCapability)))
}

// offerTaskTools says in a list for a client of 2025-11-25 which tools can be
// tasks.
func (f *Front) offerTaskTools(who identity.Caller, c connections.Connection, b []byte) []byte {
	var edits []wire.Edit
	for _, item := range wire.Items(b, wire.Path(b, wire.Whole(b), "result", "tools")) {
		edits = append(edits, wire.Edit{At: item, With: f.taskTool(who, c, item.Of(b))})
	}
	return wire.Splice(b, edits...)
}

// taskTool returns a tool's definition, which says that the tool can be a task
// if its calls may have to wait for people.
func (f *Front) taskTool(who identity.Caller, c connections.Connection, raw []byte) []byte {
	whole := wire.Whole(raw)
	name, _ := wire.Text(raw, wire.Find(raw, whole, "name"))
	t, ok := f.o.Registry.Tool(c.Name, name)
	if !ok || !f.o.Line.MayHold(who, c, t) {
		return raw
	}
	execution := wire.Find(raw, whole, "execution")
	switch support, _ := wire.Text(raw, wire.Find(raw, execution, "taskSupport")); {
	case !execution.Present():
		return wire.Splice(raw, wire.Set(raw, whole, "execution", []byte(`{"taskSupport":"optional"}`)))
	case raw[execution.Start] != '{' || support == "required" || support == "optional":
		return raw
	}
	return wire.Splice(raw, wire.Set(raw, execution, "taskSupport", []byte(`"optional"`)))
}
