package inspection

import (
	"bytes"
	"encoding/json/jsontext"
	"fmt"
)

// redactJSON redacts valid JSON where plain splicing would break it: a finding
// that reaches over quotes or cuts an escape in two, a number, or names that
// become equal. It is slow and rare. What it returns may still be invalid; the
// caller checks.
func redactJSON(b []byte, found []Finding) []byte {
	d := jsontext.NewDecoder(bytes.NewReader(b))
	var out []byte
	names := []map[string]bool{nil} // per nesting level
	at := 0
	for {
		start, end, scalar, ok := nextToken(d, b)
		if !ok {
			return append(out, b[at:]...)
		}
		for len(names) > d.StackDepth()+1 {
			names = names[:len(names)-1]
		}
		for len(names) < d.StackDepth()+1 {
			names = append(names, map[string]bool{})
		}
		out = append(out, b[at:start]...)
		at = end
		if !scalar {
			out = append(out, b[start:end]...)
			continue
		}
		text := redactScalar(b[start:end], start, found)
		if kind, n := d.StackIndex(d.StackDepth()); kind == '{' && n%2 == 1 {
			text = unique(text, names[d.StackDepth()])
		}
		out = append(out, text...)
	}
}

// nextToken returns where the next token of b begins and ends.
func nextToken(d *jsontext.Decoder, b []byte) (start, end int, scalar, ok bool) {
	switch d.PeekKind() {
	case '{', '}', '[', ']':
		if _, err := d.ReadToken(); err != nil {
			return 0, 0, false, false
		}
		end = int(d.InputOffset())
		return end - 1, end, false, true
	}
	v, err := d.ReadValue()
	if err != nil {
		return 0, 0, false, false
	}
	end = int(d.InputOffset())
	return end - len(v), end, true, true
}

// redactScalar redacts the token v that stands at offset.
func redactScalar(v []byte, offset int, found []Finding) []byte {
	var mine []Finding
	for _, f := range found {
		f.Start, f.End = max(f.Start-offset, 0), min(f.End-offset, len(v))
		if f.Start < f.End {
			mine = append(mine, f)
		}
	}
	if len(mine) == 0 {
		return v
	}
	if v[0] != '"' {
		return []byte(`"` + Mark(mine[0].Rule) + `"`)
	}
	inside := mine[:0]
	for _, f := range mine {
		f = unitsOf(v, f)
		if n := len(inside); n > 0 && f.Start < inside[n-1].End {
			inside[n-1].End = max(inside[n-1].End, f.End) // they met in one escape
		} else if f.Start < f.End {
			inside = append(inside, f)
		}
	}
	return splice(v, inside, nil)
}

// unitsOf fits f into the string literal v, widened to whole escapes.
func unitsOf(v []byte, f Finding) Finding {
	start, end := -1, 1
	for i := 1; i < len(v)-1; {
		n := 1
		if v[i] == '\\' {
			_, n = appendEscape(nil, v[i:len(v)-1])
		}
		if i+n > f.Start && i < f.End {
			if start < 0 {
				start = i
			}
			end = i + n
		}
		i += n
	}
	if start < 0 {
		return Finding{}
	}
	f.Start, f.End = start, end
	return f
}

// unique returns the object name text, numbered if seen has it already.
func unique(text []byte, seen map[string]bool) []byte {
	base := text[1 : len(text)-1]
	for n := 2; seen[string(text)]; n++ {
		text = fmt.Appendf(nil, `"%s#%d"`, base, n)
	}
	seen[string(text)] = true
	return text
}
