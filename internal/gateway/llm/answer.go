package llm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/gateway"
)

const (
	// firstLook is how much of an answer that is not a stream is looked at
	// before it is passed on: an answer that fits is checked to be JSON.
	firstLook = 64 << 10
	// maxList is the longest list of models that is filtered.
	maxList = 8 << 20
)

// checkAnswer refuses a success that is not what the API promises, as far as
// that can be seen before it is passed on.
func (x *exchange) checkAnswer(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK || isStream(resp.Header) {
		return nil
	}
	if !isJSON(resp.Header) {
		return fmt.Errorf("200 with content type %.60q", resp.Header.Get("Content-Type"))
	}
	if resp.ContentLength > firstLook || compressed(resp.Header) {
		return nil
	}
	head, err := look(resp)
	if err != nil {
		return err
	}
	if len(head) > firstLook {
		resp.Body = &joined{Reader: io.MultiReader(bytes.NewReader(head), resp.Body), Closer: resp.Body}
		return nil
	}
	if !jsontext.Value(head).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) {
		return fmt.Errorf("200 with %d bytes that are not JSON", len(head))
	}
	resp.Body = &joined{Reader: bytes.NewReader(head), Closer: resp.Body}
	resp.ContentLength = int64(len(head))
	return nil
}

// look reads the answer's first bytes, all of them if they are few.
func look(resp *http.Response) ([]byte, error) {
	if resp.ContentLength < 0 {
		return io.ReadAll(io.LimitReader(resp.Body, firstLook+1))
	}
	head := make([]byte, resp.ContentLength)
	_, err := io.ReadFull(resp.Body, head)
	return head, err
}

type joined struct {
	io.Reader
	io.Closer
}

// filterAnswer keeps of a list of models what keep allows.
func filterAnswer(resp *http.Response, keep func(string) bool) error {
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	if compressed(resp.Header) || !isJSON(resp.Header) {
		return fmt.Errorf("a list of models of type %.60q", resp.Header.Get("Content-Type"))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxList+1))
	if err != nil {
		return err
	}
	if len(body) > maxList {
		return fmt.Errorf("a list of models of more than %d bytes", maxList)
	}
	kept, err := filterModels(body, keep)
	if err != nil {
		return err
	}
	resp.Body = &joined{Reader: bytes.NewReader(kept), Closer: resp.Body}
	resp.ContentLength = int64(len(kept))
	resp.Header.Set("Content-Length", strconv.Itoa(len(kept)))
	resp.Header.Del("Etag") // of the whole list
	return nil
}

func isJSON(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == "application/json" || strings.HasSuffix(kind, "+json")
}

func compressed(h http.Header) bool {
	e := h.Get("Content-Encoding")
	return e != "" && !strings.EqualFold(e, "identity")
}

// A stream's pieces are small and streams are many; whole answers are neither.
var (
	streamBuffers = sync.Pool{New: func() any { b := make([]byte, 8<<10); return &b }}
	wholeBuffers  = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
)

// pass writes the answer as it comes: every piece of a stream is flushed, and
// nothing is held back.
func (x *exchange) pass(a *gateway.Answer) {
	defer a.Body.Close()
	out := x.w.Header()
	for name, values := range a.Header {
		out[name] = values
	}
	out.Set("X-Countersign-Call", a.Call)
	stream := isStream(a.Header)
	if stream {
		out.Del("Content-Length")
	}
	x.w.WriteHeader(a.Status)
	control := http.NewResponseController(x.w)
	flush := stream || a.Header.Get("Content-Length") == ""
	if stream && control.Flush() != nil {
		return
	}
	buffers := &wholeBuffers
	if stream {
		buffers = &streamBuffers
	}
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	var extended time.Time
	for {
		n, err := a.Body.Read(*p)
		if n > 0 {
			if now := time.Now(); now.Sub(extended) > x.f.o.WriteTimeout/4 {
				_ = control.SetWriteDeadline(now.Add(x.f.o.WriteTimeout)) // not every ResponseWriter has one
				extended = now
			}
			if _, werr := x.w.Write((*p)[:n]); werr != nil {
				return // the client left: Close cancels the upstream
			}
			if flush && err == nil && control.Flush() != nil {
				return
			}
		}
		switch {
		case err == io.EOF:
			x.told(a, control)
			return
		case err != nil:
			x.breakOff(stream, gateway.Refuse(err))
			return
		}
	}
}

// told says that the client has got all of an approved call's answer, as far
// as that can be known: it was written, and the client is still there.
func (x *exchange) told(a *gateway.Answer, control *http.ResponseController) {
	if a.Told != nil && control.Flush() == nil && x.r.Context().Err() == nil {
		a.Told()
	}
}

// breakOff ends an answer whose upstream broke off: a stream with the
// provider's own error event, anything else by breaking off too, so that no
// client takes half an answer for a whole one.
func (x *exchange) breakOff(stream bool, r *gateway.Refusal) {
	if !stream {
		panic(http.ErrAbortHandler)
	}
	event := append([]byte("\n\n"), x.dialect.errorEvent(x.tool, r.Code, r.Reason)...)
	_ = http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(x.f.o.WriteTimeout))
	_, _ = x.w.Write(event) // if this fails, the client has left
}

// refuse writes a refusal in the provider's own form.
func (x *exchange) refuse(r *gateway.Refusal) {
	if x.absent { // the same bytes as for one that is not there
		r = &gateway.Refusal{Kind: errNotLLM.Kind, Code: errNotLLM.Code, Reason: errNotLLM.Message, Event: r.Event}
	}
	status := r.Kind.Status()
	h := x.w.Header()
	switch {
	case r.Code == errMethod.Code:
		status = http.StatusMethodNotAllowed
		h.Set("Allow", x.allow)
	case status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="countersign"`)
	}
	if r.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((r.RetryAfter+time.Second-1)/time.Second)))
	}
	if r.Approval != nil {
		h.Set("X-Countersign-Approval", r.Approval.ID)
	}
	if r.Call != "" {
		h.Set("X-Countersign-Call", r.Call)
	}
	if r.Event != "" {
		h.Set("X-Countersign-Event", r.Event)
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	body := x.dialect.error(status, r.Code, message(r))
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body) // if this fails, the client has left
}

// message is what a person reads in the SDK's exception.
func message(r *gateway.Refusal) string {
	var b strings.Builder
	b.WriteString(r.Reason)
	for _, a := range r.Advice {
		b.WriteString(". " + a)
	}
	switch {
	case r.Held() && r.Approval != nil:
		b.WriteString(". Repeat the identical request to learn what people decided: " + r.Approval.URL + " (" + gateway.CodePending + ", " + r.Approval.ID + ", " + r.Event + ")")
	case r.Held():
		b.WriteString(" (" + gateway.CodePending + ", " + r.Event + ")")
	case r.Event != "":
		b.WriteString(" (" + r.Event + ")")
	}
	return b.String()
}

func unescape(segment string) (string, error) { return url.PathUnescape(segment) }

// digestOf is the digest of a call without a body: of what was asked for.
func digestOf(method, path, query string) string {
	sum := sha256.Sum256([]byte(method + " " + path + "?" + query))
	return hex.EncodeToString(sum[:])
}
