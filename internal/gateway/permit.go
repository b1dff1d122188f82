package gateway

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/countersign/countersign/internal/approvals"
)

const (
	// settleWait bounds how long the end of an approved call takes to record.
	settleWait = 30 * time.Second
)

// outliveMost is how long an approved call may go on without its client. Tests
// shorten it.
var outliveMost = 10 * time.Minute

// unmade is for a call that got no receipt: it was refused, was made before, or
// could not be recorded. An approval that was used up for it is settled as not sent.
func (g *Gateway) unmade(ctx context.Context, call *Call, v verdict, err error) (*Answer, error) {
	call.reserved.Release()
	if p := call.permit; p != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
		defer cancel()
		p.Settle(ctx, approvals.NotSent, nil)
		p.Done()
	}
	r := Refuse(err)
	if v.kept == nil || r.Code == ErrLedger.Code {
		return nil, err
	}
	return &Answer{
		Status: v.kept.Status, Header: v.kept.Header, Body: io.NopCloser(bytes.NewReader(v.kept.Body)),
		Call: v.kept.Call, Event: r.Event, Run: call.Run, Told: func() {}, Kept: true,
	}, nil
}

// keep holds on to what passes of an approved call's answer, as far as it can be kept.
func (a *answerBody) keep(b []byte) {
	if a.call.permit != nil && len(a.kept) <= approvals.KeepMost {
		a.kept = append(a.kept, b...)
	}
}

// settlePermit says how an approved call ended and keeps its whole answer. It
// returns when the front is done with the answer.
func (a *answerBody) settlePermit(outcome string, err error) {
	p := a.call.permit
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	var kept *approvals.Kept
	if err == nil && a.status != 0 && len(a.kept) <= approvals.KeepMost {
		kept = &approvals.Kept{Status: a.status, Header: a.header, Body: a.kept, Call: a.call.ID}
	}
	a.g.met(ctx, a.call, outcome)
	p.Settle(ctx, outcome, kept)
	<-a.closed
	p.Done()
}

// leave says that the front is done with the answer.
func (a *answerBody) leave() { a.left.Do(func() { close(a.closed) }) }

// outlives reports whether the answer goes on although the front closed it: an
// approved call whose client went away is read to its end, so that its result
// is there for who asks again.
func (a *answerBody) outlives() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.call.permit == nil || a.ended || a.body == nil || a.outliving {
		return false
	}
	a.outliving = true
	go func() {
		limit := time.AfterFunc(outliveMost, func() { a.cancel(ErrTimeout) })
		defer limit.Stop()
		_, _ = io.Copy(io.Discard, reader{a}) // how it ended is the outcome
		_ = a.Close()
	}()
	return true
}

// reader hides Close, so that io.Copy does nothing but read.
type reader struct{ a *answerBody }

func (r reader) Read(p []byte) (int, error) { return r.a.Read(p) }
