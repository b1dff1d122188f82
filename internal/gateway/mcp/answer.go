package mcp

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// rewrite prepares the upstream's answer for the agent. It reads nothing yet:
// what has to be read is read as it passes, under the call's time limits.
func (x *exchange) rewrite(resp *http.Response) error {
	if s := resp.Header.Get(wire.HeaderSession); s != "" {
		resp.Header.Del(wire.HeaderSession)
		if !x.modern && x.peer == nil {
			resp.Header.Set(wire.HeaderSession, x.f.sealFor(x.who, x.conn, x.sessionPurpose(), s))
		}
	}
	if x.peer != nil && x.peer.session != "" && resp.StatusCode == http.StatusNotFound {
		x.forgotten = true
		return ErrSession
	}
	kind := media(resp.Header.Get("Content-Type"))
	if resp.StatusCode/100 != 2 && kind != "application/json" {
		return nil
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return errors.New("the upstream compressed its answer unasked")
	}
	switch kind {
	case "text/event-stream":
		resp.Header.Set("X-Accel-Buffering", "no")
		resp.Body = &events{src: resp.Body, r: wire.NewReader(resp.Body, maxAnswer), each: x.event}
	case "application/json":
		resp.Body = &document{src: resp.Body, each: x.document, whole: x.mustRead()}
	default:
		if resp.StatusCode == http.StatusOK && x.msg.Kind == wire.Request && x.r.Method == http.MethodPost {
			return errors.New("the upstream answered neither JSON nor an event stream")
		}
		return nil
	}
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	return nil
}

// mustRead reports whether the answer may only pass after it was read.
func (x *exchange) mustRead() bool {
	return lists[x.method] != "" || x.method == "resources/read" || x.strict()
}

// document handles a JSON answer.
func (x *exchange) document(b []byte) ([]byte, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return b, nil
	}
	if !jsontext.Value(b).IsValid(jsontext.AllowDuplicateNames(true)) {
		return nil, errors.New("the upstream's answer is not JSON")
	}
	return x.message(b)
}

// event handles one event of a stream and returns the bytes to pass on.
func (x *exchange) event(e wire.Event) ([]byte, error) {
	if e.ID != "" {
		x.resumes = true
	}
	if len(e.Data) == 0 {
		return e.Raw, nil
	}
	// A client that is more lenient than we are would read what we cannot look
	// at: a list with one byte of broken UTF-8, say.
	if !jsontext.Value(e.Data).IsValid(jsontext.AllowDuplicateNames(true)) {
		return nil, errors.New("the upstream sent an event that is not JSON")
	}
	out, err := x.message(e.Data)
	switch {
	case err != nil || out == nil:
		return nil, err
	case bytes.Equal(out, e.Data):
		return e.Raw, nil
	}
	return e.With(out), nil
}

// message handles one message from the upstream. b is valid JSON. The result
// is b itself unless something in it is not for this agent.
func (x *exchange) message(b []byte) ([]byte, error) {
	whole := wire.Whole(b)
	if b[whole.Start] != '{' { // some clients take a batch apart: each message in it would pass unseen
		return nil, errors.New("the upstream answered with something other than one message")
	}
	result := wire.Find(b, whole, "result")
	failure := wire.Find(b, whole, "error")
	strict := x.strict()
	if strict && !result.Present() && !failure.Present() { // what a server says on the way may be anybody's words
		return nil, nil
	}
	if !result.Present() && !failure.Present() {
		if bytes.Contains(b, []byte("/list_changed")) {
			x.f.watch.changed(x.conn)
		}
		return x.passed(b), nil
	}
	if x.id() != nil {
		x.note(b, result, failure)
	}
	if !result.Present() {
		if strict {
			return withoutWords(b, failure), nil
		}
		return b, nil
	}
	method := x.method
	if !bytes.Equal(wire.Find(b, whole, "id").Of(b), x.id()) {
		method = "" // clients match answers by id alone: this one may be to anything
	}
	if (method == "tools/call" || method == "resources/read") && x.call != nil {
		x.f.o.Line.Learn(x.call, result.Of(b))
	}
	if strict {
		if method == "" {
			return nil, nil // an answer to something else
		}
		referred, err := x.f.o.Line.Refer(x.call, result.Of(b))
		if err != nil {
			return nil, gateway.Refuse(err)
		}
		b = slices.Concat(b[:result.Start], referred, b[result.End:])
		result = wire.Find(b, wire.Whole(b), "result")
	}
	if method == "server/discover" && x.modern && x.peer == nil {
		return offerTasks(b, result), nil
	}
	if method == "initialize" && x.peer == nil {
		return offerOldTasks(b, result), nil
	}
	out, err := x.f.filter(x.r.Context(), x.who, x.conn, method, x.modern, b)
	if err != nil {
		return nil, err
	}
	if method == "tools/list" && x.peer == nil && !x.modern && asksOldTasks(x.r) {
		out = x.f.offerTaskTools(x.who, x.conn, out)
	}
	return x.passed(out), nil
}

// strict reports whether untrusted text of the answer is handed on as references.
func (x *exchange) strict() bool {
	return x.call != nil && (x.method == "tools/call" || x.method == "resources/read" || x.method == "prompts/get") && x.f.o.Line.Strict(x.call)
}

// withoutWords returns a server's error with its code alone.
func withoutWords(b []byte, failure wire.Span) []byte {
	code, err := strconv.Atoi(string(wire.Find(b, failure, "code").Of(b)))
	if err != nil {
		code = -32603 // internal error (JSON-RPC 2.0, section 5.1)
	}
	text := `{"code":` + strconv.Itoa(code) + `,"message":"the server answered with an error; its words are not handed on"}`
	return slices.Concat(b[:failure.Start], []byte(text), b[failure.End:])
}

// passed is the last change to a message for a client of the aggregated
// endpoint; others get it as it is.
func (x *exchange) passed(b []byte) []byte {
	if x.peer == nil {
		return b
	}
	return x.backward(b)
}

// note remembers, for the outcome, how the request ended.
func (x *exchange) note(b []byte, result, failure wire.Span) {
	x.answered = true
	if failure.Present() {
		x.code, _ = strconv.Atoi(string(wire.Find(b, failure, "code").Of(b)))
		x.failed, _ = wire.Text(b, wire.Find(b, failure, "message"))
		x.failed = "the server answered with an error: " + clip(x.failed)
		return
	}
	if string(wire.Find(b, result, "isError").Of(b)) == "true" {
		x.failed = "the tool reported an error"
	}
}

// answer writes the upstream's answer to the agent.
func (x *exchange) answer(a *gateway.Answer) {
	defer a.Body.Close()
	switch {
	case x.task.there && !x.task.passed:
		x.answerTask(a)
		return
	case a.Kept:
		x.replay(a)
		return
	}
	stream := media(a.Header.Get("Content-Type")) == "text/event-stream"
	buf := make([]byte, 32<<10)
	n, err := 0, error(nil)
	if !stream { // an error before the first byte can still be said properly
		if n, err = a.Body.Read(buf); err != nil && err != io.EOF && n == 0 {
			x.refuse(gateway.Refuse(err))
			return
		}
	}
	for name, values := range a.Header {
		x.w.Header()[name] = values
	}
	x.w.Header().Set("X-Countersign-Call", a.Call)
	x.w.WriteHeader(a.Status)
	control := http.NewResponseController(x.w)
	for {
		if n > 0 {
			_ = control.SetWriteDeadline(time.Now().Add(writeTime)) // who reads nothing must not hold the upstream; test recorders have none
			if _, werr := x.w.Write(buf[:n]); werr != nil {
				return // the client went away; Close tells the upstream
			}
		}
		if stream || n > 0 {
			_ = control.Flush()
		}
		if err != nil {
			break
		}
		n, err = a.Body.Read(buf)
	}
	if err != io.EOF {
		x.broke(gateway.Refuse(err), stream)
		return
	}
	if a.Told != nil && control.Flush() == nil && x.r.Context().Err() == nil {
		a.Told()
	}
}

// broke ends an answer that the upstream broke off: with an error for the
// request where the protocol can say one, by breaking off too where it cannot.
func (x *exchange) broke(r *gateway.Refusal, stream bool) {
	if id := x.id(); stream && id != nil && !x.answered && !x.resumes {
		_, _ = x.w.Write(wire.AppendEvent(nil, "", failure(id, r)))
		return
	}
	if x.r.Context().Err() == nil {
		panic(http.ErrAbortHandler)
	}
}

// events passes a stream on event by event.
type events struct {
	src  io.Closer
	r    *wire.Reader
	each func(wire.Event) ([]byte, error)
	out  []byte
}

func (s *events) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		e, err := s.r.Next()
		if err != nil {
			return 0, err
		}
		if s.out, err = s.each(e); err != nil {
			return 0, gateway.ErrAnswer.With(err)
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

func (s *events) Close() error { return s.src.Close() }

// document passes a JSON answer on as a whole. One that is larger than
// maxAnswer passes unread, or not at all if it must be read.
type document struct {
	src   io.ReadCloser
	each  func([]byte) ([]byte, error)
	whole bool
	read  bool
	out   []byte
	rest  io.Reader
}

func (d *document) Read(p []byte) (int, error) {
	if !d.read {
		if err := d.load(); err != nil {
			return 0, err
		}
	}
	if len(d.out) > 0 {
		n := copy(p, d.out)
		d.out = d.out[n:]
		return n, nil
	}
	if d.rest != nil {
		return d.rest.Read(p)
	}
	return 0, io.EOF
}

func (d *document) load() error {
	b, err := io.ReadAll(io.LimitReader(d.src, maxAnswer+1))
	if err != nil {
		return err
	}
	d.read = true
	if len(b) > maxAnswer {
		if d.whole {
			return gateway.ErrAnswer.With(errors.New("the list is too large to be read"))
		}
		d.out, d.rest = b, d.src
		return nil
	}
	if d.out, err = d.each(b); err != nil {
		return gateway.ErrAnswer.With(err)
	}
	return nil
}

func (d *document) Close() error { return d.src.Close() }
