package content

import (
	"errors"
	"io"
	"mime"
	"strings"

	"github.com/countersign/countersign/internal/inspection"
)

// ErrBlocked ends content in which something was found that may not pass.
var ErrBlocked = errors.New("content: something was found that may not pass")

// Plan says what is done about what is found. Scanner must be set.
type Plan struct {
	Scanner *inspection.Scanner
	Replace inspection.Kinds // what is of these does not pass, something stands for it
	Block   inspection.Kinds // the content ends before what is of these
	// With says what stands for a finding, whose bytes it is shown; nil writes
	// inspection's markers. See inspection.Scanner.Replace.
	With func(f inspection.Finding, b []byte) string
	// Found, if set, is told of kinds before what was found passes. It may be told
	// of the same ones again.
	Found func(inspection.Kinds)
}

// Enforces reports whether the plan changes or ends anything.
func (p *Plan) Enforces() bool { return p.Replace|p.Block != 0 }

// Bytes returns what may pass of a whole text: b itself if that is all of it.
func (p *Plan) Bytes(b []byte) ([]byte, error) {
	var kinds inspection.Kinds
	for _, f := range p.Scanner.Inspect(b, inspection.All) {
		kinds |= f.Kind
	}
	p.tell(kinds)
	switch {
	case kinds&p.Block != 0:
		return nil, ErrBlocked
	case kinds&p.Replace != 0:
		return p.Scanner.Replace(b, p.Replace, p.With), nil
	}
	return b, nil
}

func (p *Plan) tell(k inspection.Kinds) {
	if k != 0 && p.Found != nil {
		p.Found(k)
	}
}

// stands returns what stands for a finding; ok is false for one that may not pass.
func (p *Plan) stands(piece []byte, f *inspection.Finding) (out []byte, ok bool) {
	if f == nil {
		return piece, true
	}
	p.tell(f.Kind)
	switch {
	case f.Kind&p.Block != 0:
		return nil, false
	case f.Kind&p.Replace == 0:
		return piece, true
	case p.With != nil:
		return []byte(p.With(*f, piece)), true
	}
	return []byte(inspection.Mark(f.Rule)), true
}

// Form is how content is put together.
type Form int

const (
	Opaque Form = iota // no text: nothing in it can be replaced, so what would be ends it
	Text               // one text
	JSON               // one document
	Lines              // a document a line: event streams, JSON lines
)

// FormOf returns the form of a media type.
func FormOf(contentType string) Form {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return Opaque
	}
	switch {
	case media == "text/event-stream", strings.HasSuffix(media, "ndjson"), strings.HasSuffix(media, "jsonl"), strings.HasSuffix(media, "json-seq"):
		return Lines
	case media == "application/json", strings.HasSuffix(media, "+json"):
		return JSON
	case strings.HasPrefix(media, "text/"), strings.HasSuffix(media, "xml"), strings.HasSuffix(media, "javascript"), strings.HasSuffix(media, "yaml"), media == "application/x-www-form-urlencoded":
		return Text
	}
	return Opaque
}

// Reader returns body, of length bytes or of unknown length if that is negative,
// as it may pass. After ErrBlocked nothing more comes.
func (p *Plan) Reader(body io.ReadCloser, form Form, length int64) io.ReadCloser {
	m := p.machine(form)
	if !p.Enforces() {
		return &tap{ReadCloser: body, m: m, left: length}
	}
	return &filter{body: body, m: m, in: make([]byte, 16<<10)}
}

// machine takes content in pieces and gives what may pass of it.
type machine interface {
	write(p []byte)
	end()                      // of the content
	take() (b []byte, e error) // what may pass now; valid until the next write
}

func (p *Plan) machine(form Form) machine {
	switch {
	case form == Lines:
		return newLines(p)
	case form == JSON && p.Enforces():
		return &document{plan: p, rest: newText(p, inspection.Bulk)}
	case form == Opaque:
		strict := *p
		strict.Block |= strict.Replace
		return newText(&strict, inspection.Bulk)
	}
	return newText(p, inspection.Bulk)
}

// tap shows a machine what passes.
type tap struct {
	io.ReadCloser
	m    machine
	left int64 // of what was announced: who reads it may not ask for more
	done bool
}

// Read implements io.Reader.
func (t *tap) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if t.done {
		return n, err
	}
	t.m.write(p[:n])
	if t.left -= int64(n); err != nil || t.left == 0 {
		t.m.end()
		t.done = true
	}
	_, _ = t.m.take() // nothing is blocked here
	return n, err
}

// filter passes on what a machine gives.
type filter struct {
	body  io.ReadCloser
	m     machine
	in    []byte
	ready []byte
	err   error // to be returned after ready
}

// Read implements io.Reader.
func (f *filter) Read(p []byte) (int, error) {
	for len(f.ready) == 0 {
		if f.err != nil {
			return 0, f.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := f.body.Read(f.in)
		f.m.write(f.in[:n])
		if errors.Is(err, io.EOF) { // of what broke off, what is held stays held
			f.m.end()
		}
		f.err = err
		ready, blocked := f.m.take()
		f.ready = ready
		if blocked != nil {
			f.err = blocked
		}
	}
	n := copy(p, f.ready)
	f.ready = f.ready[n:]
	return n, nil
}

// Close implements io.Closer.
func (f *filter) Close() error { return f.body.Close() }

// text is the machine of one text.
type text struct {
	stream *inspection.Stream
	ready  []byte
	err    error
}

func newText(p *Plan, step int) *text {
	t := &text{}
	t.stream = p.Scanner.Stream(inspection.All, step, func(piece []byte, f *inspection.Finding) {
		if t.err != nil {
			return
		}
		out, ok := p.stands(piece, f)
		if !ok {
			t.err = ErrBlocked
			return
		}
		if p.Enforces() {
			t.ready = append(t.ready, out...)
		}
	})
	return t
}

func (t *text) write(p []byte) { t.stream.Write(p) }

func (t *text) end() { t.stream.Close() }

func (t *text) take() ([]byte, error) {
	out := t.ready
	t.ready = nil
	return out, t.err
}

// maxDocument is the largest document that is held whole, so that it stays one.
const maxDocument = 4 << 20

// document is the machine of a JSON document.
type document struct {
	plan *Plan
	held []byte
	rest *text // takes over from a document that is too long
	long bool
	out  []byte
	err  error
}

func (d *document) write(p []byte) {
	if d.long {
		d.rest.write(p)
		return
	}
	if d.held = append(d.held, p...); len(d.held) > maxDocument {
		d.rest.write(d.held)
		d.held, d.long = nil, true
	}
}

func (d *document) end() {
	if d.long {
		d.rest.end()
		return
	}
	d.out, d.err = d.plan.Bytes(d.held)
	d.held = nil
}

func (d *document) take() ([]byte, error) {
	if d.long {
		return d.rest.take()
	}
	out := d.out
	d.out = nil
	return out, d.err
}
