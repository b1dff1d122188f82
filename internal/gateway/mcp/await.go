package mcp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// await keeps the client while people decide about its call, and tells it that
// something is going on. It reports whether the call had better be made again
// now. Only who can hear of it is kept: a client that asked for progress, or
// for the wait itself (Prefer: wait). Others are told "pending" at once.
func (x *exchange) await(w *late, r *gateway.Refusal) bool {
	if !r.Held() || r.Approval == nil || x.method != "tools/call" || x.id() == nil {
		return false
	}
	token := wire.Find(x.msg.Raw, x.msg.Meta, "progressToken").Of(x.msg.Raw)
	most := gateway.PreferWait(x.r.Header)
	show := !x.modern && !x.tasks() && r.Approval.Self && x.opensLinks() // in the stream of the call
	switch {
	case most > 0:
	case x.linked.opened: // the person is deciding
		most = gateway.MostWait
	case x.tasks(), !x.linked.there && !show && r.Approval.Self && x.opensLinks(): // told at once, in a way that it understands
	case token != nil, show:
		most = gateway.MostWait
	}
	ctx, end := x.r.Context(), time.Now().Add(most)
	if show {
		var gone context.CancelFunc
		ctx, gone = x.elicit(ctx, w, r)
		defer gone()
	}
	for n := 1; ; n++ {
		left := time.Until(end)
		if left <= 0 || ctx.Err() != nil {
			return false
		}
		if x.f.o.Line.Await(ctx, r.Approval, min(left, x.f.o.Progress)) {
			if show {
				w.event(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{"elicitationId":%q}}`, r.Approval.ID))
			}
			return true
		}
		if token != nil && time.Until(end) > 0 && ctx.Err() == nil {
			w.event(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%d,"message":%s}}`,
				token, n, wire.Quote("waiting for people to decide about "+r.Approval.ID)))
		}
	}
}

// again is the request with its body unread.
func again(r *http.Request, body []byte) *http.Request {
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r
}

// late is a ResponseWriter whose answer may come as the last event of a stream
// that was begun before anyone knew what it would be.
type late struct {
	http.ResponseWriter
	began  bool
	header http.Header // of the answer, once the stream has begun
	stream bool        // the answer is a stream itself
	buf    bytes.Buffer
}

// event sends a message ahead of the answer.
func (l *late) event(message []byte) {
	control := http.NewResponseController(l.ResponseWriter)
	if !l.began {
		h := l.ResponseWriter.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no")
		l.ResponseWriter.WriteHeader(http.StatusOK)
		l.began, l.header = true, http.Header{}
	}
	_ = control.SetWriteDeadline(time.Now().Add(writeTime)) // test recorders have none
	_, _ = l.ResponseWriter.Write(wire.AppendEvent(nil, "", message))
	_ = control.Flush() // a client that went away needs no progress
}

// Header returns the header of the answer, which nobody sees once a stream has begun.
func (l *late) Header() http.Header {
	if l.began {
		return l.header
	}
	return l.ResponseWriter.Header()
}

// WriteHeader implements http.ResponseWriter.
func (l *late) WriteHeader(status int) {
	if l.began {
		l.stream = media(l.header.Get("Content-Type")) == "text/event-stream"
		return
	}
	l.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (l *late) Write(b []byte) (int, error) {
	if l.began && !l.stream {
		return l.buf.Write(b)
	}
	return l.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (l *late) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// finish sends an answer that was no stream as the last event.
func (l *late) finish() {
	if l.buf.Len() > 0 {
		l.event(bytes.TrimSpace(l.buf.Bytes()))
		l.buf.Reset()
	}
}
