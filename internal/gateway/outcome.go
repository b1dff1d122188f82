package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// answerBody is an answer's body on its way to the agent. It measures, hashes
// and shows the observer what passes, holds nothing of it, and hands the
// call's one outcome to the log when the answer ends, however it ends.
type answerBody struct {
	g       *Gateway
	receipt audit.Receipt
	call    *Call
	client  context.Context // of the agent's request
	ctx     context.Context // of the upstream's: ends with client, or with a cause of ours
	cancel  context.CancelCauseFunc
	began   time.Time
	idle    time.Duration // 0: without limit
	closed  chan struct{} // closed when the front is done with the answer
	left    sync.Once

	mu        sync.Mutex
	body      io.ReadCloser // nil until the upstream has answered
	length    int64         // announced, -1 if not
	status    int
	observing bool
	digest    hash.Hash
	bytes     int64
	first     time.Duration
	timer     *time.Timer
	header    http.Header
	kept      []byte // of an approved call, what passed
	ended     bool
	outliving bool
	end       error // what Read returns once ended
}

// watch starts the limit on silence.
func (a *answerBody) watch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.idle > 0 && !a.ended {
		a.timer = time.AfterFunc(a.idle, func() { a.cancel(ErrIdle) })
	}
}

// answered notes that the upstream has begun to answer.
func (a *answerBody) answered(status int) {
	a.mu.Lock()
	a.status = status
	a.mu.Unlock()
}

// stop cuts the call, for why: nothing more passes, whoever reads it, and its
// outcome is told now.
func (a *answerBody) stop(why error) {
	a.cancel(why)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		a.settle(a.g.refuse(a.call, a.receipt, why, true))
	}
}

// open attaches the upstream's response, unless the call was cut meanwhile.
func (a *answerBody) open(resp *http.Response) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		resp.Body.Close()
		return a.end
	}
	a.body, a.length, a.status, a.header = resp.Body, resp.ContentLength, resp.StatusCode, resp.Header.Clone()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		a.length = -1
		// What was upgraded does not end with the request's context by itself.
		context.AfterFunc(a.ctx, func() { resp.Body.Close() })
	}
	a.digest = sha256.New()
	if o := a.call.Observer; o != nil {
		a.observing = true
		o.Begin(resp.StatusCode, resp.Header)
	}
	return nil
}

// Read passes on what the upstream sends. An error other than io.EOF is a
// *Refusal: the answer broke off.
func (a *answerBody) Read(p []byte) (int, error) {
	a.mu.Lock()
	if a.ended {
		err := a.end
		a.mu.Unlock()
		return 0, err
	}
	if a.timer != nil {
		a.timer.Reset(a.idle)
	}
	body := a.body
	a.mu.Unlock()

	n, err := body.Read(p) // blocks; Close may come in between

	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
	if a.ended { // closed meanwhile: the outcome is already told
		return 0, a.end
	}
	if n > 0 {
		if a.bytes == 0 {
			a.first = time.Since(a.began)
		}
		a.bytes += int64(n)
		a.digest.Write(p[:n])
		a.keep(p[:n])
		if !a.show(p[:n]) {
			n, err = 0, a.g.refuse(a.call, a.receipt, ErrPanic, true)
			a.settle(err)
			return n, err
		}
		a.propose(a.bytes == a.length)
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		a.propose(true)
		a.settle(nil)
	default:
		err = a.broken(err, true)
		a.settle(err)
	}
	return n, err
}

// show lets the observer see what passes. What it cannot see does not pass: an
// observer that panics ends the answer.
func (a *answerBody) show(b []byte) (ok bool) {
	if !a.observing {
		return true
	}
	defer func() {
		if p := recover(); p != nil {
			a.observing = false
			a.g.o.Logger.Error("an observer panicked", "call", a.call.ID, "panic", p)
			ok = false
		}
	}()
	a.call.Observer.Chunk(b)
	return true
}

// Close ends the answer. Before its end that cancels the upstream, except of
// an approved call, which is read to its end for whoever asks again.
func (a *answerBody) Close() error {
	if a.outlives() {
		return nil
	}
	defer a.leave()
	a.mu.Lock()
	if !a.ended {
		var err error
		if a.length < 0 || a.bytes != a.length {
			err = ErrCancelled
		}
		a.settle(err)
	}
	body := a.body
	a.body = nil
	a.mu.Unlock()
	a.cancel(ErrCancelled) // no effect on an answer that was read to its end
	if body == nil {
		return nil
	}
	return body.Close()
}

// settle ends the answer and has its outcome recorded, without making anyone
// wait. The caller holds the mutex; the second call has no effect.
func (a *answerBody) settle(err error) {
	if a.ended {
		return
	}
	a.ended, a.end = true, err
	if err == nil {
		a.end = io.EOF
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	o := audit.Outcome{Code: a.status, Micros: time.Since(a.began).Microseconds(), FirstByte: a.first.Microseconds(), Bytes: a.bytes, Attempts: int(a.call.attempts.Load())}
	go a.tell(o, err)
}

// tell hands the outcome to the log.
func (a *answerBody) tell(o audit.Outcome, err error) {
	defer a.g.flight.leave()
	a.g.standing.remove(a, err)
	if a.digest != nil && a.bytes > 0 {
		o.Digest = hex.EncodeToString(a.digest.Sum(nil))
	}
	seen := a.seen(err)
	o.Usage = seen.Usage
	classify(&o, seen, err)
	a.g.price(&o)
	ev := callEvent(a.call)
	ev.Type, ev.Outcome = audit.CallOutcome, &o
	ev.Detail = outcomeDetail(a.call, seen)
	a.g.labelled(&ev, a.call)
	proposes(&ev, a.call)
	a.g.o.Ledger.Outcome(a.receipt, ev, seen.Payloads...)
	a.g.spent(a.call, o, err)
	a.settlePermit(o.Status, err)
}

// seen asks the observer. An observer that panics costs what it saw, not the
// outcome.
func (a *answerBody) seen(err error) (s Seen) {
	if !a.observing {
		return Seen{}
	}
	defer func() {
		if p := recover(); p != nil {
			a.g.o.Logger.Error("an observer panicked", "call", a.call.ID, "panic", p)
			s = Seen{}
		}
	}()
	s = a.call.Observer.Done(err)
	s.Payloads = a.g.captured(a.call, s.Payloads)
	return s
}

// classify says how a call ended.
func classify(o *audit.Outcome, seen Seen, err error) {
	if seen.Code != 0 {
		o.Code = seen.Code
	}
	switch {
	case errors.Is(err, ErrCancelled):
		o.Status = audit.Cancelled
	case stopped(err):
		o.Status, o.Error = audit.Cancelled, err.Error()
	case isAnswer(err):
		o.Status, o.Error = audit.Failed, clip(oneLine(err.Error()), 300)
	case err != nil:
		o.Status, o.Error = audit.Broken, clip(oneLine(cause(err)), 300)
	case seen.Failed != "":
		o.Status, o.Error = audit.Failed, clip(oneLine(seen.Failed), 300)
	case o.Code >= 400:
		o.Status, o.Error = audit.Failed, http.StatusText(o.Code)
	default:
		o.Status = audit.Succeeded
	}
}

// isAnswer reports whether err is about what passes, an answer of the upstream or
// a message to it, rather than about silence.
func isAnswer(err error) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && (r.Code == ErrRedirect.Code || r.Code == ErrRejected.Code || r.Code == CodeInspected || r.Code == CodeGuarded || r.Code == ErrResult.Code || r.Code == CodeDenied || r.Code == CodeLimited)
}

// cause says what broke, with the reason that only our log may show.
func cause(err error) string {
	r, ok := errors.AsType[*Refusal](err)
	if !ok || r.cause == nil || r.cause.Error() == r.Reason {
		return err.Error()
	}
	if f, ok := errors.AsType[*fault.Error](r.cause); ok {
		return f.Error()
	}
	return r.Reason + ": " + r.cause.Error()
}
