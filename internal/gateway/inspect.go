package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/inspection/content"
	"github.com/countersign/countersign/internal/policy"
)

// CodeInspected is the code of what inspection refuses.
const CodeInspected = "inspection_blocked"

// inspected is what was found in a call and in its answer.
type inspected struct {
	plan  *content.Plan    // nil: nothing is looked for
	asked inspection.Kinds // in the request
	kinds atomic.Uint32    // in both; the answer is read while the outcome is told
}

func (c *Call) foundKinds() inspection.Kinds { return inspection.Kinds(c.inspected.kinds.Load()) }

// saw notes what was found, for the call's events and for what its run does next.
func (g *Gateway) saw(call *Call, k inspection.Kinds) {
	call.inspected.kinds.Or(uint32(k))
	if call.Who.Agent.Name == "" || call.Run == "" || k == 0 {
		return
	}
	if !g.runs.saw(call.Who, call.Run, k) || !g.watched(call) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	if err := g.o.Flow.Labels(ctx, memory(call), k.Labels()); err != nil {
		g.o.Logger.Warn("what was found in a run is known on this replica alone", "call", call.ID, "error", err)
	}
}

// actions are what a connection does, by kind.
type actions struct{ redact, stand, block, hold inspection.Kinds }

func actionsOf(c connections.Connection) (a actions) {
	for label, action := range c.Inspect {
		k, _ := inspection.KindOf(label)
		switch {
		case action == connections.InspectRedact:
			a.redact |= k
		case action == connections.InspectStand:
			a.stand |= k
		case action == connections.InspectBlock:
			a.block |= k
		case strings.HasPrefix(action, connections.InspectHold):
			a.hold |= k
		}
	}
	return a
}

// plan is what is done about what a call's answer holds: what people would have
// to decide about cannot wait in the middle of an answer, and ends it.
func (g *Gateway) plan(call *Call) *content.Plan {
	a := actionsOf(call.Connection)
	p := &content.Plan{Scanner: g.o.Scanner, Replace: a.redact | a.stand, Block: a.block | a.hold, With: g.inPlace(call, a), Found: func(k inspection.Kinds) { g.saw(call, k) }}
	if call.Who.Agent.Name == "" { // we ourselves ask for definitions, which are pinned as they are
		p.Replace, p.Block = 0, 0
	}
	return p
}

// inspect looks at a request before anything is decided about it. What is to be
// replaced is replaced here, and the front reads what is left: policy, approval
// and log see exactly what would go out.
func (g *Gateway) inspect(call *Call) error {
	if g.o.Scanner == nil || call.Connection.Dialect == connections.Git { // its packs are compressed
		return nil
	}
	p := g.plan(call)
	call.inspected.plan = p
	if err := g.reveal(call); err != nil {
		return err
	}
	up := call.Request
	note := content.Plan{Scanner: p.Scanner, Found: func(k inspection.Kinds) { call.inspected.asked |= k; g.saw(call, k) }}
	for _, text := range [][]byte{[]byte(up.Path), []byte(up.Query), up.Body} {
		if _, err := note.Bytes(text); err != nil {
			return err
		}
	}
	if up.Stream != nil {
		up.Stream = p.Reader(io.NopCloser(up.Stream), content.Opaque, -1)
	}
	replace := *p
	replace.Replace &^= given(call)
	if call.inspected.asked&replace.Replace == 0 {
		return nil
	}
	if err := replaceable(call, &replace); err != nil {
		return err
	}
	if err := call.Reread(func(b []byte) []byte {
		if call.revealed != nil {
			b = call.revealed(b)
		}
		return p.Scanner.Replace(b, replace.Replace, p.With)
	}); err != nil {
		return err
	}
	if len(p.Scanner.Inspect(call.Request.Body, replace.Replace)) > 0 {
		return ErrInspected
	}
	return nil
}

// given is what nothing stands for in a request: the tool may have it, and its
// connection hides it in answers alone.
func given(call *Call) (k inspection.Kinds) {
	for _, label := range call.Tool.References.Flow.Reveal {
		if one, ok := inspection.KindOf(label); ok {
			k |= one
		}
	}
	return k & actionsOf(call.Connection).stand
}

// replaceable refuses a request in which what must not pass cannot be replaced: it
// stands in the address, or in content that is no text.
func replaceable(call *Call, p *content.Plan) error {
	address := []byte(call.Request.Path + "?" + call.Request.Query)
	if len(p.Scanner.Inspect(address, p.Replace)) > 0 || call.Reread == nil || content.FormOf(call.Request.Header.Get("Content-Type")) == content.Opaque {
		return ErrInspected.Say("the request holds what may not pass to %s (%s), where it cannot be replaced; leave it out", call.Connection.Name, strings.Join((call.inspected.asked&p.Replace).Labels(), ", "))
	}
	return nil
}

// inspected denies or holds, for what was found in it, a call that policy would
// let pass.
func (g *Gateway) inspected(call *Call, v verdict) verdict {
	if v.effect == policy.Deny || call.inspected.plan == nil {
		return v
	}
	a := actionsOf(call.Connection)
	block, hold := a.block, a.hold
	found := call.inspected.asked
	if found&block != 0 {
		v.effect, v.code, v.holds, v.advice = policy.Deny, CodeInspected, nil, nil
		v.reason = "the request holds what may not pass to " + call.Connection.Name + ": " + strings.Join((found&block).Labels(), ", ")
		v.record.Effect, v.record.Reason = policy.Deny.String(), v.reason
		return v
	}
	for _, label := range (found & hold).Labels() {
		group := strings.TrimPrefix(call.Connection.Inspect[label], connections.InspectHold)
		v.effect = policy.Hold
		v.holds = append(slices.Clone(v.holds), policy.Needed{Policy: "inspection: " + label, Groups: []string{group}, Quorum: 1, DecideWithin: policy.DefaultDecideWithin, ExecuteWithin: policy.DefaultExecuteWithin})
		v.reason = strings.TrimPrefix(v.reason+"; ", "; ") + "the request holds " + label
		v.record.Effect, v.record.Reason = policy.Hold.String(), v.reason
	}
	return v
}

// firstLook is how much of an answer is inspected before its header passes, so
// that a refusal can still be one.
const firstLook = 64 << 10

// inspectAnswer puts inspection between the upstream's answer and everything
// that reads it.
func (g *Gateway) inspectAnswer(call *Call, resp *http.Response) error {
	p := call.inspected.plan
	if p == nil && call.Who.Agent.Name == "" && g.o.Scanner != nil {
		p = g.plan(call)
	}
	if p == nil || resp.StatusCode == http.StatusSwitchingProtocols || call.Request.Method == http.MethodHead {
		return nil
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		if p.Enforces() {
			return ErrInspected.Say("the answer of %s is encoded (%.20q), so it cannot be inspected, and its connection demands that", call.Connection.Name, e)
		}
		return nil
	}
	form := content.FormOf(resp.Header.Get("Content-Type"))
	resp.Body = p.Reader(resp.Body, form, resp.ContentLength)
	if !p.Enforces() {
		return nil
	}
	resp.ContentLength = -1
	for _, name := range []string{"Content-Length", "Etag", "Digest", "Content-Digest", "Repr-Digest", "Content-Md5", "Accept-Ranges"} {
		resp.Header.Del(name) // of what the upstream sent
	}
	if form == content.Lines {
		return nil
	}
	head, err := io.ReadAll(io.LimitReader(resp.Body, firstLook))
	if errors.Is(err, content.ErrBlocked) {
		return ErrInspected.With(err)
	}
	resp.Body = &behind{Reader: io.MultiReader(bytes.NewReader(head), failing{err}, resp.Body), Closer: resp.Body}
	return nil
}

// behind is a body of which the head was read.
type behind struct {
	io.Reader
	io.Closer
}

// failing fails with err, or is empty if there is none.
type failing struct{ err error }

// Read implements io.Reader.
func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}
