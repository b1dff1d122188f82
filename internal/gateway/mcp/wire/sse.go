package wire

import (
	"bytes"
	"errors"
	"io"
)

// ErrEvent says that an event of a stream is larger than the reader allows.
var ErrEvent = errors.New("an event of the stream is too large")

// Event is one server-sent event (WHATWG HTML 9.2). Raw holds its bytes as
// they came, terminator included; comments before it belong to it.
type Event struct {
	Raw  []byte
	Data []byte // the data lines joined by newlines; nil if there are none
	Name string
	ID   string
}

// Reader splits a stream into events without losing a byte.
type Reader struct {
	r    io.Reader
	max  int
	buf  []byte // read and not yet returned
	scan int    // how far buf has been looked at
	line int    // start of the current line in buf
	cr   bool   // the last byte looked at was a carriage return
	err  error
}

// NewReader returns a Reader that refuses events longer than max bytes.
func NewReader(r io.Reader, max int) *Reader { return &Reader{r: r, max: max} }

// Next returns the next event. At the end of the stream it returns io.EOF; the
// bytes of an event cut off there are discarded, as clients discard them.
func (r *Reader) Next() (Event, error) {
	for {
		if raw, ok := r.cut(); ok {
			return parseEvent(raw), nil
		}
		if r.err != nil {
			return Event{}, r.err
		}
		if len(r.buf) > r.max {
			return Event{}, ErrEvent
		}
		r.fill()
	}
}

func (r *Reader) fill() {
	if cap(r.buf)-len(r.buf) < 1024 {
		grown := make([]byte, len(r.buf), max(4096, 2*cap(r.buf)))
		copy(grown, r.buf)
		r.buf = grown
	}
	n, err := r.r.Read(r.buf[len(r.buf):cap(r.buf)])
	r.buf, r.err = r.buf[:len(r.buf)+n], err
}

// cut looks for an empty line. Lines end in LF, CR or CRLF; an event that ends
// in CRLF leaves its LF to the next one, so that it need not wait for it.
func (r *Reader) cut() ([]byte, bool) {
	for ; r.scan < len(r.buf); r.scan++ {
		c := r.buf[r.scan]
		if c == '\n' && r.cr {
			r.cr, r.line = false, r.scan+1
			continue
		}
		r.cr = c == '\r'
		if c != '\n' && c != '\r' {
			continue
		}
		if r.line < r.scan {
			r.line = r.scan + 1
			continue
		}
		raw := r.buf[: r.scan+1 : r.scan+1]
		rest := make([]byte, len(r.buf)-r.scan-1, max(4096, len(r.buf)-r.scan-1))
		copy(rest, r.buf[r.scan+1:])
		r.buf, r.scan, r.line = rest, 0, 0
		return raw, true
	}
	return nil, false
}

// lines calls fn with each line of raw and its terminator.
func lines(raw []byte, fn func(line, end []byte)) {
	for len(raw) > 0 {
		i := bytes.IndexAny(raw, "\r\n")
		if i < 0 {
			fn(raw, nil)
			return
		}
		n := 1
		if raw[i] == '\r' && i+1 < len(raw) && raw[i+1] == '\n' {
			n = 2
		}
		fn(raw[:i], raw[i:i+n])
		raw = raw[i+n:]
	}
}

func parseEvent(raw []byte) Event {
	e := Event{Raw: raw}
	lines(bytes.TrimPrefix(raw, []byte("\ufeff")), func(line, _ []byte) {
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "data":
			if e.Data == nil {
				e.Data = append([]byte{}, value...)
			} else {
				e.Data = append(append(e.Data, '\n'), value...)
			}
		case "event":
			e.Name = string(value)
		case "id":
			e.ID = string(value)
		}
	})
	return e
}

// With returns the event's bytes with other data. Its other lines stay.
func (e Event) With(data []byte) []byte {
	out, done := make([]byte, 0, len(e.Raw)+len(data)), false
	lines(e.Raw, func(line, end []byte) {
		if field, _, _ := bytes.Cut(line, []byte(":")); string(field) != "data" {
			out = append(append(out, line...), end...)
			return
		}
		if !done {
			out, done = AppendData(out, data), true
		}
	})
	return out
}

// AppendData appends data as the data lines of an event, without the empty
// line that ends it.
func AppendData(dst, data []byte) []byte {
	lines(data, func(line, _ []byte) {
		dst = append(append(append(dst, "data: "...), line...), '\n')
	})
	return dst
}

// AppendEvent appends one event with data and, if not empty, an id.
func AppendEvent(dst []byte, id string, data []byte) []byte {
	if id != "" {
		dst = append(append(append(dst, "id: "...), id...), '\n')
	}
	return append(AppendData(append(dst, "event: message\n"...), data), '\n')
}
