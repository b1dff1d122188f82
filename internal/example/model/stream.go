package model

import (
	"context"
	"net/http"
	"time"
)

// stream writes server-sent events, each flushed at once.
type stream struct {
	x  *exchange
	rc *http.ResponseController
}

func (x *exchange) openStream() *stream {
	x.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	x.w.Header().Set("Cache-Control", "no-cache")
	x.w.WriteHeader(http.StatusOK)
	return &stream{x: x, rc: http.NewResponseController(x.w)}
}

// send writes one event; event may be empty (OpenAI's chat stream names none).
// It returns false when the client has gone and the answer should stop.
func (st *stream) send(event string, v any) bool {
	var b []byte
	if event != "" {
		b = append(b, "event: "+event+"\n"...)
	}
	b = append(b, "data: "...)
	if s, ok := v.(string); ok {
		b = append(b, s...)
	} else {
		b = append(b, marshal(v)...)
	}
	b = append(b, "\n\n"...)
	if _, err := st.x.w.Write(b); err != nil {
		return false
	}
	return st.rc.Flush() == nil && st.x.r.Context().Err() == nil
}

// text streams the answer piece by piece through emit, at the pace and with the
// faults that the knobs ask for. It returns false when the answer ended early,
// whether because the client left or because a fault was asked for.
func (st *stream) text(text string, emit func(piece string) bool) bool {
	k := st.x.knobs
	pieces := k.pieces(text)
	for i := 0; ; i++ {
		if k.preset != "test-endless" && i >= len(pieces) {
			return true
		}
		if i >= len(pieces)/2 {
			switch k.preset {
			case "test-reset":
				panic(http.ErrAbortHandler)
			case "test-error200":
				st.errorEvent()
				return false
			}
		}
		if i > 0 && !sleep(st.x.r.Context(), k.delay) {
			return false
		}
		if !emit(pieces[i%len(pieces)]) {
			return false
		}
	}
}

// errorEvent is how each provider reports a failure after the answer began.
func (st *stream) errorEvent() {
	body := st.x.errorBody(http.StatusInternalServerError, "the provider failed in the middle of the answer")
	switch {
	case st.x.dialect == anthropic:
		st.send("error", body)
	case st.x.r.URL.Path == "/v1/responses":
		st.send("error", obj{"type": "error", "sequence_number": 0, "code": "server_error", "param": nil,
			"message": "the provider failed in the middle of the answer"})
	default:
		st.send("", body)
	}
}

// sleep waits for d, or returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// bend answers the requests whose fault lies before any answer. It returns true
// when the request has been dealt with.
func (x *exchange) bend(streaming bool) bool {
	switch x.knobs.preset {
	case "test-hang":
		<-x.r.Context().Done()
		return true
	case "test-error":
		x.fail(x.knobs.status, "the provider was asked to fail")
		return true
	case "test-garbage":
		x.w.Header().Set("Content-Type", "application/json")
		if streaming {
			x.w.Header().Set("Content-Type", "text/event-stream")
		}
		_, _ = x.w.Write([]byte("<<<this is not what you asked for\x00\xff"))
		return true
	}
	if streaming {
		return false
	}
	switch x.knobs.preset {
	case "test-error200":
		writeJSON(x.w, http.StatusOK, x.errorBody(http.StatusInternalServerError, "the provider failed and said so with status 200"))
		return true
	case "test-reset":
		x.w.Header().Set("Content-Length", "1000")
		_, _ = x.w.Write([]byte(`{"id":"`))
		_ = http.NewResponseController(x.w).Flush()
		panic(http.ErrAbortHandler)
	case "test-endless":
		x.endlessBody()
		return true
	}
	// A slow answer that is not streamed is slow as a whole.
	total := time.Duration(max(0, x.knobs.chunks-1)) * x.knobs.delay
	return !sleep(x.r.Context(), total)
}

// endlessBody is a JSON string that never ends.
func (x *exchange) endlessBody() {
	x.w.Header().Set("Content-Type", "application/json")
	if _, err := x.w.Write([]byte(`{"id":"`)); err != nil {
		return
	}
	rc := http.NewResponseController(x.w)
	for sleep(x.r.Context(), x.knobs.delay) {
		if _, err := x.w.Write([]byte(filler(x.knobs.size))); err != nil || rc.Flush() != nil {
			return
		}
	}
}
