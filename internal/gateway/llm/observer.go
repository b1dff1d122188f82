package llm

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/llm/anthropic"
	"github.com/countersign/countersign/internal/gateway/llm/openai"
)

const (
	tailLimit = 8 << 10
	lineLimit = 256 << 10 // a longer line of an event stream is not read
	docLimit  = 4 << 20   // of a longer document the calls of tools are not read
)

// observer reads an answer as it passes: usage, failure and the beginning of
// what the model said. It holds no more than the captures above.
type observer struct {
	reader answerReader
	capt   bool // keep the answer's text
	limit  int  // bytes of it
	status int
	stream bool
	plain  bool // not compressed

	line []byte // an unfinished line of the stream
	skip bool   // the line is too long and is not read
	head []byte // of a document
	tail []byte // of a document longer than head
	size int64

	parsed bool   // head was read
	valid  bool   // and is JSON
	before string // what was said before the answer
	model  string // that was asked for
	linked int    // identifiers that were told
	voiced bool   // what was said was told
}

// newObserver returns an observer of the answer to a request whose last words
// are before.
func newObserver(d *dialect, capture bool, limit int, before string) *observer {
	limit += gateway.CaptureMargin
	return &observer{reader: d.answer(limit), capt: capture, limit: limit, before: before}
}

// Begin notes what kind of answer it is.
func (o *observer) Begin(status int, h http.Header) {
	o.status = status
	o.stream = isStream(h)
	encoding := h.Get("Content-Encoding")
	o.plain = encoding == "" || strings.EqualFold(encoding, "identity")
}

// Chunk reads what passes.
func (o *observer) Chunk(b []byte) {
	o.size += int64(len(b))
	switch {
	case !o.plain:
	case o.stream:
		o.lines(b)
	default:
		o.document(b)
	}
}

func (o *observer) lines(b []byte) {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			if !o.skip && len(o.line)+len(b) <= lineLimit {
				o.line = append(o.line, b...)
			} else {
				o.skip, o.line = true, o.line[:0]
			}
			return
		}
		switch {
		case o.skip:
			o.skip = false
		case len(o.line) > 0:
			o.line = append(o.line, b[:i]...)
			o.read(o.line)
		default:
			o.read(b[:i])
		}
		o.line = o.line[:0]
		b = b[i+1:]
	}
}

func (o *observer) read(line []byte) {
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if ok && o.reader.Interesting(data) {
		o.reader.Event(bytes.TrimSpace(data))
	}
}

func (o *observer) document(b []byte) {
	if room := max(o.limit, docLimit) - len(o.head); room > 0 {
		n := min(room, len(b))
		o.head = append(o.head, b[:n]...)
		b = b[n:]
	}
	if len(b) == 0 {
		return
	}
	o.tail = append(o.tail, b[max(0, len(b)-tailLimit):]...)
	if len(o.tail) > 4*tailLimit {
		o.tail = append(o.tail[:0], o.tail[len(o.tail)-tailLimit:]...)
	}
}

// parse reads a document once, as far as it is kept.
func (o *observer) parse() {
	if o.parsed {
		return
	}
	o.parsed, o.valid = true, true
	if int64(len(o.head)) < o.size {
		o.reader.Tail(o.tail)
		return
	}
	o.valid = o.reader.Document(o.head)
}

// Done says what was learned.
func (o *observer) Done(err error) gateway.Seen {
	var s gateway.Seen
	if !o.stream && o.plain && o.size > 0 {
		o.parse()
		if !o.valid && err == nil {
			s.Failed = "the answer is not JSON"
		}
	}
	if o.model != "" {
		s.Detail = shapeOf(clip(o.model), o.before)
	}
	usage, failed, text := learned(o.reader)
	s.Usage = usage
	if failed != "" {
		s.Failed = failed
	}
	switch {
	case !o.capt:
	case len(text) > 0:
		s.Payloads = []audit.Payload{{Name: "answer", Body: text}}
	case len(o.head) > 0:
		s.Payloads = []audit.Payload{{Name: "answer", Body: o.head[:min(len(o.head), o.limit)], Size: o.size}}
	}
	return s
}

// learned reads the fields that both dialects have.
func learned(r answerReader) (*audit.Usage, string, []byte) {
	var u audit.Usage
	var used bool
	var failed string
	var text []byte
	switch a := r.(type) {
	case *openai.Answer:
		u, used, failed, text = audit.Usage{Model: a.Model, Input: a.Input, Output: a.Output, Cached: a.Cached}, a.Used, a.Failed, a.Text
	case *anthropic.Answer:
		u, used, failed, text = audit.Usage{Model: a.Model, Input: a.Input, Output: a.Output, Cached: a.Cached}, a.Used, a.Failed, a.Text
	}
	if !used {
		return nil, failed, text
	}
	return &u, failed, text
}

func isStream(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}
