package content

import (
	"bytes"
	"encoding/json/jsontext"
	"strings"

	"github.com/countersign/countersign/internal/inspection"
)

const (
	maxLine   = 16 << 20  // a longer line ends content that something is done about
	maxQueue  = 256 << 10 // bytes of events that wait for the rest of their texts
	maxEvents = 4096
)

// lines is the machine of an event stream, or of any other content that is a
// document a line. The texts that a model writes piece by piece come spread over
// many events: each is put together, looked at as one text, and what stands for
// a finding is written where the finding began; the events that held the rest
// of it lose it. An event waits until all of its pieces are settled, and the
// ones behind it wait with it.
type lines struct {
	plan     *Plan
	line     []byte
	queue    []*event
	size     int // bytes in queue
	channels map[string]*channel
	ready    []byte
	err      error
}

// event is one line.
type event struct {
	raw    []byte
	pieces []*piece
	open   int // pieces that are not settled
}

// piece is the part of a channel's text that an event brings.
type piece struct {
	event      *event
	start, end int // of its literal in the event
	left       int // bytes of its text that are not settled
	out        []byte
	changed    bool
}

// channel is one text.
type channel struct {
	stream *inspection.Stream
	open   []*piece
}

func newLines(p *Plan) *lines { return &lines{plan: p, channels: map[string]*channel{}} }

func (l *lines) write(p []byte) {
	for len(p) > 0 && l.err == nil {
		n := bytes.IndexByte(p, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(p)
		}
		l.line = append(l.line, p[:n]...)
		p = p[n:]
		switch {
		case whole:
			l.take1(l.line)
			l.line = nil
		case len(l.line) > maxLine:
			l.tooLong()
		}
	}
}

// tooLong ends what must not pass unseen, and looks at what is only noted.
func (l *lines) tooLong() {
	if l.plan.Enforces() {
		l.err = ErrBlocked
		return
	}
	_, _ = l.plan.Bytes(l.line) // nothing is blocked here
	l.line = nil
}

func (l *lines) end() {
	if len(l.line) > 0 && l.err == nil {
		l.take1(l.line)
		l.line = nil
	}
	l.settle()
}

func (l *lines) take() ([]byte, error) {
	out := l.ready
	l.ready = nil
	return out, l.err
}

// take1 takes one line.
func (l *lines) take1(line []byte) {
	at := payload(line)
	e := &event{raw: line}
	for _, d := range deltas(line[at:]) {
		c := l.channel(d.channel)
		p := &piece{event: e, start: at + d.start, end: at + d.end, left: len(d.text)}
		e.pieces = append(e.pieces, p)
		if p.left > 0 {
			e.open++
			c.open = append(c.open, p)
			c.stream.Write(d.text)
		}
	}
	l.queue, l.size = append(l.queue, e), l.size+len(line)
	if last(line[at:]) || l.size > maxQueue || len(l.queue) > maxEvents {
		l.settle()
	}
	l.drain()
}

// settle ends the texts: what is held of them is all there is.
func (l *lines) settle() {
	for _, c := range l.channels {
		c.stream.Close()
	}
	clear(l.channels)
	l.drain()
}

// drain passes on the events that nothing is open of.
func (l *lines) drain() {
	for len(l.queue) > 0 && l.queue[0].open == 0 && l.err == nil {
		e := l.queue[0]
		l.queue, l.size = l.queue[1:], l.size-len(e.raw)
		out, err := l.plan.Bytes(e.render())
		if err != nil {
			l.err = err
			return
		}
		if l.plan.Enforces() {
			l.ready = append(l.ready, out...)
		}
	}
}

func (e *event) render() []byte {
	var out []byte
	at := 0
	for _, p := range e.pieces {
		if !p.changed {
			continue
		}
		quoted, err := jsontext.AppendQuote(nil, p.out)
		if err != nil { // a character was cut in two
			quoted, _ = jsontext.AppendQuote(nil, bytes.ToValidUTF8(p.out, []byte("\uFFFD"))) // cannot fail
		}
		out = append(append(out, e.raw[at:p.start]...), quoted...)
		at = p.end
	}
	if at == 0 {
		return e.raw
	}
	return append(out, e.raw[at:]...)
}

func (l *lines) channel(name string) *channel {
	if c := l.channels[name]; c != nil {
		return c
	}
	c := &channel{}
	c.stream = l.plan.Scanner.Stream(inspection.All, inspection.Live, func(b []byte, f *inspection.Finding) {
		out, ok := l.plan.stands(b, f)
		if !ok {
			l.err = ErrBlocked
		}
		c.settled(b, out, f != nil && ok && f.Kind&l.plan.Replace != 0)
	})
	l.channels[name] = c
	return c
}

// settled hands n bytes of text to the pieces that brought it: as they are, or
// what stands for them to the first.
func (c *channel) settled(b, out []byte, replaced bool) {
	for len(b) > 0 {
		p := c.open[0]
		n := min(len(b), p.left)
		if replaced {
			p.out, out, p.changed = append(p.out, out...), nil, true
		} else {
			p.out = append(p.out, b[:n]...)
		}
		b = b[n:]
		if p.left -= n; p.left == 0 {
			c.open = c.open[1:]
			p.event.open--
		}
	}
}

// payload returns where the document of a line begins.
func payload(line []byte) int {
	if !bytes.HasPrefix(line, []byte("data:")) {
		return 0
	}
	at := len("data:")
	for at < len(line) && line[at] == ' ' {
		at++
	}
	return at
}

// last reports whether a document says that a text has ended.
func last(doc []byte) bool {
	for _, mark := range []string{"[DONE]", `_stop"`, `.done"`, `.completed"`, `.failed"`, `"finish_reason":"`} {
		if bytes.Contains(doc, []byte(mark)) {
			return true
		}
	}
	return false
}

// delta is a piece of text in a document.
type delta struct {
	channel    string
	text       []byte
	start, end int
}

// plain are members of a delta that are no text.
var plain = map[string]bool{"type": true, "role": true, "id": true, "name": true, "signature": true, "encrypted_content": true, "stop_reason": true, "finish_reason": true, "stop_sequence": true}

// placed are members that say to which text a delta belongs.
var placed = map[string]bool{"index": true, "output_index": true, "content_index": true, "item_id": true, "summary_index": true}

// deltas returns the pieces of text in a document of a model's stream: strings
// that are, or are in, a member "delta", and the text of a choice.
func deltas(doc []byte) []delta {
	if len(doc) == 0 || doc[0] != '{' || !bytes.Contains(doc, []byte(`"delta"`)) && !bytes.Contains(doc, []byte(`"choices"`)) {
		return nil
	}
	d := jsontext.NewDecoder(bytes.NewReader(doc), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	var out []delta
	var where strings.Builder
	for {
		if k := d.PeekKind(); k == '{' || k == '[' || k == '}' || k == ']' {
			if _, err := d.ReadToken(); err != nil {
				break
			}
			continue
		}
		kind, n := d.StackIndex(d.StackDepth())
		v, err := d.ReadValue()
		if err != nil || kind == '{' && n%2 == 0 {
			if err != nil {
				break
			}
			continue // a name
		}
		pointer := string(d.StackPointer())
		name := pointer[strings.LastIndexByte(pointer, '/')+1:]
		switch {
		case placed[name]:
			where.WriteString("|" + string(v))
		case v.Kind() == '"' && !plain[name] && said(pointer, name):
			text, err := jsontext.AppendUnquote(nil, v)
			if err != nil {
				continue // not UTF-8: it is looked at with the rest of the line
			}
			end := int(d.InputOffset())
			out = append(out, delta{channel: pointer, text: text, start: end - len(v), end: end})
		}
	}
	for i := range out {
		out[i].channel += where.String()
	}
	return out
}

func said(pointer, name string) bool {
	return name == "delta" || strings.Contains(pointer, "/delta/") || name == "text" && strings.HasPrefix(pointer, "/choices/")
}
