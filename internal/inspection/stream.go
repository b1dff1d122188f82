package inspection

// Stream looks for the same as Inspect in a text that comes in pieces. How the
// text is cut makes no difference: the stream looks whenever so many bytes more
// have come, at the same places of the text whatever the pieces are. A finding may
// begin in one piece and end in another.
//
// What is settled is passed on; what may still become a finding, or part of one,
// is held: the last bytes of the text, back to a space, and the whole of a
// finding that reaches its end. A finding longer than maxHeld is settled in parts.
//
// It is not safe for concurrent use.
type Stream struct {
	scanner *Scanner
	kinds   Kinds
	step    int // how many bytes come between two looks
	pass    func(piece []byte, f *Finding)

	buf     []byte // context, then what is held
	base    int    // where buf begins in the text
	settled int    // where the text is settled up to
	next    int    // where the next look is
	checked int    // up to where beginnings of known values were looked for
	begun   []begun
}

// begun is where a known value may have begun that is not all there.
type begun struct{ start, end int }

const (
	context = 256      // settled bytes that are kept: the name before a value
	reach   = 128      // bytes at the end that are always held
	maxWord = 4 << 10  // how far back a space is looked for
	maxHeld = 64 << 10 // the most that is held
)

// Looks of a stream: bytes between them. Live is for text that someone waits
// for, Bulk for content.
const (
	Live = 64
	Bulk = 16 << 10
)

// Stream returns a stream that looks for kinds every step bytes and hands what
// is settled to pass, in order: text as it is with a nil finding, or the bytes of
// a finding, whose place is counted from the beginning of the text. pass must not
// keep the bytes.
func (s *Scanner) Stream(kinds Kinds, step int, pass func(piece []byte, f *Finding)) *Stream {
	return &Stream{scanner: s, kinds: kinds, step: step, next: step, pass: pass}
}

// Write takes the next piece of the text.
func (t *Stream) Write(p []byte) {
	for len(p) > 0 {
		n := min(len(p), t.next-t.end())
		t.buf = append(t.buf, p[:n]...)
		p = p[n:]
		if t.end() == t.next {
			t.look(false)
			t.next += t.step
		}
	}
}

// Close settles what is held: the text has ended. More may be written after it;
// it is another text then, that goes on counting.
func (t *Stream) Close() {
	t.look(true)
	t.base, t.checked, t.next, t.buf, t.begun = t.settled, t.settled, t.settled+t.step, t.buf[:0], t.begun[:0]
}

// Held returns how many bytes are not settled.
func (t *Stream) Held() int { return t.end() - t.settled }

func (t *Stream) end() int { return t.base + len(t.buf) }

// look settles as much as can be.
func (t *Stream) look(all bool) {
	if t.Held() == 0 {
		return
	}
	found := t.scanner.Inspect(t.buf, t.kinds)
	until := t.end()
	if !all {
		until = t.cut(found)
	}
	for _, f := range found {
		f.Start, f.End = max(f.Start+t.base, t.settled), f.End+t.base
		if f.End <= t.settled {
			continue
		}
		if f.Start >= until {
			break
		}
		f.End = min(f.End, until)
		t.give(f.Start, nil)
		t.give(f.End, &f)
	}
	t.give(until, nil)
	t.forget()
}

// cut returns up to where the text can be settled.
func (t *Stream) cut(found []Finding) int {
	end := t.end()
	until := max(t.settled, end-reach)
	for back := max(t.settled, until-maxWord); ; until-- {
		if until <= back {
			until = max(t.settled, end-reach) // no space: one long word
			if end-t.settled < maxWord {
				until = t.settled
			}
			break
		}
		if c := t.buf[until-1-t.base]; c == ' ' || c == '\n' || c == '\t' {
			break
		}
		if at := until - t.base; at < len(t.buf) && t.buf[at] >= 0xe3 && t.buf[at] <= 0xed { // scripts without spaces
			break
		}
	}
	for _, b := range t.starting() {
		if b.start < until && b.end > end {
			until = max(t.settled, b.start)
		}
	}
	for i := len(found) - 1; i >= 0; i-- {
		if f := found[i]; f.Start+t.base < until && f.End+t.base > until {
			until = max(t.settled, f.Start+t.base)
		}
	}
	if end-until > maxHeld {
		return end - reach
	}
	return until
}

// starting returns where known values may have begun that are not all there.
func (t *Stream) starting() []begun {
	if t.kinds&Secrets == 0 {
		return nil
	}
	table := t.scanner.known.current()
	if table == nil {
		return nil
	}
	for ; t.checked+window <= t.end(); t.checked++ {
		if at := t.checked - t.base; at >= 0 {
			if n := table.firsts[table.key.window(t.buf[at:])]; n > 0 {
				t.begun = append(t.begun, begun{t.checked, t.checked + n})
			}
		}
	}
	live := t.begun[:0]
	for _, b := range t.begun {
		if b.end > t.end() && b.start >= t.settled {
			live = append(live, b)
		}
	}
	t.begun = live
	return live
}

// give passes on the text up to until.
func (t *Stream) give(until int, f *Finding) {
	if until <= t.settled {
		return
	}
	piece := t.buf[t.settled-t.base : until-t.base]
	t.settled = until
	t.pass(piece, f)
}

// forget drops what is settled but for the context.
func (t *Stream) forget() {
	from := t.settled - t.base - context
	if from <= 0 || from < len(t.buf)/2 {
		return
	}
	n := copy(t.buf, t.buf[from:])
	clear(t.buf[n:])
	t.buf, t.base = t.buf[:n], t.base+from
}
