package stdio

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"time"
)

// Limits on what a child writes to stderr.
const (
	// maxComplaint is how much is looked at together, in bytes.
	maxComplaint = 256 << 10
	// complaintMargin is longer than any secret that a cut must not go through.
	complaintMargin = 96 << 10
	// complaintPause is how long more is waited for before what is there is
	// passed on: what is written together is redacted together.
	complaintPause = 100 * time.Millisecond
	// maxLogLine is the longest line that is logged as one.
	maxLogLine = 8 << 10
)

// complain passes on what the child writes to stderr, line by line, redacted.
func (c *child) complain(r *os.File) {
	s := &complaints{redact: c.t.o.Redact, log: func(line string) { c.t.o.Logger.Info("stderr", "connection", c.key.conn, "line", line) }}
	chunk := make([]byte, 8<<10)
	for fresh := false; ; {
		deadline := time.Time{}
		if fresh {
			deadline = time.Now().Add(complaintPause)
		}
		_ = r.SetReadDeadline(deadline) // pipes have deadlines
		n, err := r.Read(chunk)
		s.take(chunk[:n])
		fresh = n > 0
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.pause()
		case err != nil:
			s.end()
			return
		}
	}
}

// complaints turns a stream of text into redacted log lines. No secret is cut
// in two before it is looked for: what arrives together is redacted together,
// an unfinished line waits for its end, and a private key for its own. What
// grows beyond maxComplaint meanwhile is cut where a cut changes nothing, or
// dropped.
type complaints struct {
	redact func([]byte) []byte // nil: everything is dropped
	log    func(line string)
	buf    []byte // not passed on yet
	skip   bool   // the rest of a dropped line is dropped too
}

// take adds what was read.
func (s *complaints) take(b []byte) {
	if s.redact == nil {
		return
	}
	for len(b) > 0 {
		if s.skip {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				return
			}
			b, s.skip = b[i+1:], false
			continue
		}
		n := min(len(b), maxComplaint-len(s.buf))
		s.buf, b = append(s.buf, b[:n]...), b[n:]
		if len(s.buf) == maxComplaint {
			s.overflow()
		}
	}
}

// pause passes on whole lines.
func (s *complaints) pause() {
	n := bytes.LastIndexByte(s.buf, '\n') + 1
	if begun := bytes.LastIndex(s.buf[:n], []byte("-----BEGIN ")); begun >= 0 && !bytes.Contains(s.buf[begun:n], []byte("-----END ")) {
		n = bytes.LastIndexByte(s.buf[:begun], '\n') + 1
	}
	s.pass(n)
}

// end passes on what is left.
func (s *complaints) end() { s.pass(len(s.buf)) }

// overflow makes room. A cut is safe if both sides alone are redacted as they
// are together; a secret may not reach further than the margin behind it.
func (s *complaints) overflow() {
	whole := s.redact(bytes.Clone(s.buf))
	last := len(s.buf) - complaintMargin
	cuts := []int{bytes.LastIndexByte(s.buf[:last], '\n') + 1}
	for at := last; at > last-complaintMargin; at -= complaintMargin / 8 {
		cuts = append(cuts, at)
	}
	for _, at := range cuts {
		if at == 0 {
			continue
		}
		left, right := s.redact(bytes.Clone(s.buf[:at])), s.redact(bytes.Clone(s.buf[at:]))
		if len(left)+len(right) == len(whole) && bytes.HasPrefix(whole, left) && bytes.HasSuffix(whole, right) {
			s.pass(at)
			return
		}
	}
	s.log("[too much text without a place to cut it: dropped]")
	s.buf, s.skip = s.buf[:0], true
}

// pass logs the first n bytes of what there is.
func (s *complaints) pass(n int) {
	if n == 0 {
		return
	}
	text := s.redact(bytes.Clone(s.buf[:n]))
	s.buf = append(s.buf[:0], s.buf[n:]...)
	for line := range bytes.Lines(text) {
		for line = bytes.TrimSpace(line); len(line) > 0; {
			piece := line[:min(len(line), maxLogLine)]
			line = line[len(piece):]
			s.log(strings.ToValidUTF8(string(piece), "\uFFFD"))
		}
	}
}
