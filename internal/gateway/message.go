package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json/jsontext"
	"strconv"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/policy"
)

// callSent is the type of the events that record what an agent sends within a
// call that was upgraded, before it goes out.
const callSent audit.Type = "call.sent"

// errHeldMessage refuses what policy would have people decide about.
var errHeldMessage = fault.New(fault.Denied, CodeDenied, "people would have to decide about this message, which cannot wait in the middle of a connection")

// Message is a whole message of an upgraded connection, or one that is part of
// the protocol beneath it.
type Message struct {
	Text    bool // its bytes are UTF-8
	Control bool // not decided about and never changed
	Body    []byte
}

// Send decides about messages that the agent sends, in their order, and records
// those that may go before they do: as one event, however many had arrived when
// the first was looked at. It returns how many of the first may go, whose bodies
// it may have replaced; the others are to be asked about again. If none may, err is
// why, and the call has ended.
func (a *answerBody) Send(batch []Message) (n int, err error) {
	var allowed, v verdict
	var said, facts []guardFact
	for n < len(batch) && err == nil {
		if v, facts, err = a.sendable(&batch[n]); err == nil {
			n, allowed, said = n+1, v, append(said, facts...)
		}
	}
	switch {
	case n > 0:
		err = a.sent(batch[:n], allowed, said, nil)
	case err != nil && !batch[0].Control:
		if lost := a.sent(batch[:1], v, facts, a.g.refuse(a.call, a.receipt, err, true)); lost != nil {
			err = lost
		}
	}
	if err == nil {
		return n, nil
	}
	refusal := a.g.refuse(a.call, a.receipt, err, true)
	a.stop(refusal)
	return 0, refusal
}

// sendable says why a message may not go out. What is to be replaced in it is.
func (a *answerBody) sendable(m *Message) (verdict, []guardFact, error) {
	err := a.g.revealIn(a.ctx, a.call, m)
	if err == nil {
		err = a.look(m, given(a.call))
	}
	if err != nil {
		r := Refuse(err)
		return verdict{effect: policy.Deny, code: r.Code, reason: r.Reason, record: audit.Decision{Effect: policy.Deny.String(), Reason: r.Reason}}, nil, err
	}
	if m.Control {
		return verdict{}, nil, nil
	}
	c := a.call
	part := a.part()
	part.Args = withMessage(c.Args, *m, c.JSONMessages)
	if s, ok := c.Connection.Guarding(); ok && s.Request {
		a.g.guard(a.ctx, part, s, "request", m.Body)
		a.g.guardSaw(part)
	}
	v := guardedVerdict(part, a.g.limit(a.ctx, part, a.g.postured(a.ctx, part, a.g.decide(part))))
	switch v.effect {
	case policy.Allow:
		return v, part.guarded, nil
	case policy.Hold:
		v.record.Effect, v.code, v.reason = policy.Deny.String(), errHeldMessage.Code, errHeldMessage.Message
	}
	return v, part.guarded, &Refusal{Kind: kindOr(v.kind), Code: v.code, Reason: v.reason, Advice: v.advice, Scope: v.needs, RetryAfter: v.retry}
}

// part is the call as it is asked about for a message of it.
func (a *answerBody) part() *Call {
	c := a.call
	out := &Call{ID: c.ID, Run: c.Run, Who: c.Who, Connection: c.Connection, Tool: c.Tool, Started: a.g.o.Now(), placed: c.placed, remote: c.remote, message: true}
	out.inspected.kinds.Store(c.inspected.kinds.Load())
	return out
}

// Receive looks at a message for the agent before it passes: Countersign's own
// credential and what is to be replaced are replaced in it. An error ends the call.
func (a *answerBody) Receive(m *Message) error {
	a.call.cover(m.Body)
	err := a.look(m, 0)
	if s, ok := a.call.Connection.Guarding(); err == nil && ok && s.Answer && !m.Control {
		part := a.part()
		f := a.g.guard(a.ctx, part, s, "answer", m.Body)
		a.g.guardSaw(part)
		if !f.Passed {
			err = ErrGuarded.Say("the guardrail service of %s does not let the message pass", a.call.Connection.Name)
		}
	}
	if err == nil {
		return nil
	}
	refusal := a.g.refuse(a.call, a.receipt, err, true)
	a.stop(refusal)
	return refusal
}

// look inspects a message, in which nothing stands for what is free.
func (a *answerBody) look(m *Message, free inspection.Kinds) error {
	if a.call.inspected.plan == nil {
		return nil
	}
	p := *a.call.inspected.plan
	p.Replace &^= free
	if !m.Text || m.Control {
		p.Block |= p.Replace // nothing in it can be replaced
	}
	b, err := p.Bytes(m.Body)
	if err != nil {
		return ErrInspected.With(err)
	}
	m.Body = b
	return nil
}

// withMessage returns the arguments of a call with a message of it: as JSON, if
// it is some and the tool's messages are, or its text.
func withMessage(args jsontext.Value, m Message, isJSON bool) jsontext.Value {
	if len(args) == 0 {
		args = noArgs
	}
	out := append([]byte(nil), args[:len(args)-1]...)
	if len(args) > len(noArgs) {
		out = append(out, ',')
	}
	out = strconv.AppendInt(append(out, `"message":{"bytes":`...), int64(len(m.Body)), 10)
	switch {
	case !m.Text:
		out = append(out, `,"kind":"binary"`...)
	case isJSON && jsontext.Value(m.Body).IsValid():
		out = append(append(out, `,"kind":"text","json":`...), m.Body...)
	default:
		text, err := jsontext.AppendQuote(nil, m.Body)
		if err != nil { // not UTF-8, which whoever read the message has seen to
			text = []byte(`""`)
		}
		out = append(append(out, `,"kind":"text","text":`...), text...)
	}
	return append(out, "}}"...)
}

type batchDetail struct {
	Messages int         `json:"messages"`
	Bytes    int64       `json:"bytes"`
	Refused  string      `json:"refused,omitempty"` // the code, of one that did not go
	Guard    []guardFact `json:"guard,omitempty"`
}

// sent records messages with what was decided about the last of them.
func (a *answerBody) sent(batch []Message, v verdict, said []guardFact, refusal *Refusal) error {
	digest, d := sha256.New(), batchDetail{Guard: said}
	text := audit.Payload{Name: "messages"}
	for _, m := range batch {
		if m.Control {
			continue
		}
		d.Messages++
		d.Bytes += int64(len(m.Body))
		digest.Write(binary.BigEndian.AppendUint64(nil, uint64(len(m.Body))))
		digest.Write(m.Body)
		if m.Text {
			text.Body = append(append(text.Body, m.Body...), '\n')
		}
	}
	if d.Messages == 0 {
		return nil
	}
	ev := callEvent(a.call)
	ev.Type, ev.Digest = callSent, hex.EncodeToString(digest.Sum(nil))
	ev.Decision = v.recorded()
	if refusal != nil {
		d.Refused = refusal.Code
	}
	ev.Detail = detail(d)
	var payloads []audit.Payload
	if len(text.Body) > 0 {
		payloads = a.g.captured(a.call, []audit.Payload{text})
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	if _, err := a.g.o.Ledger.Append(ctx, ev, payloads...); err != nil {
		return a.g.unrecorded(a.call, err)
	}
	return nil
}
