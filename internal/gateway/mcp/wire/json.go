package wire

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode"
)

// MaxDepth is how deep a message may nest.
const MaxDepth = 128

// Span is a half-open range of bytes. The zero Span means "not there".
type Span struct{ Start, End int }

// Of returns the bytes of b that s covers, nil for the zero Span. They are not
// a copy.
func (s Span) Of(b []byte) []byte {
	if s.End == 0 {
		return nil
	}
	return b[s.Start:s.End:s.End]
}

// Present reports whether s covers anything.
func (s Span) Present() bool { return s.End > 0 }

// Member is one name and value of a JSON object, by position.
type Member struct {
	Name string // unescaped
	Key  Span   // the quoted name
	Val  Span
}

// Check reports why b is not exactly one JSON document that every reader
// understands alike: RFC 8259 syntax, valid UTF-8, no duplicate names in any
// object, nothing behind it, at most MaxDepth deep. The error quotes nothing
// of b.
func Check(b []byte) error {
	if deep(b) {
		return fmt.Errorf("nested deeper than %d levels", MaxDepth)
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(b))
	if _, err := dec.ReadValue(); err != nil {
		return plain(err)
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return errors.New("something follows the JSON document")
	}
	return nil
}

// plain says what is wrong without repeating the sender's bytes.
func plain(err error) error {
	var syn *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return errors.New("duplicate member name in a JSON object")
	case errors.As(err, &syn):
		return fmt.Errorf("invalid JSON at byte %d", syn.ByteOffset)
	case err == io.EOF:
		return errors.New("empty body")
	}
	return errors.New("invalid JSON")
}

// deep counts brackets outside strings. It runs before the parser, so that a
// parser's recursion or stack is never tried.
func deep(b []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// Members returns the members of the object at s. b must have passed Check and
// s must cover a value in it; nil if that value is not an object.
func Members(b []byte, s Span) []Member {
	at := s.Start
	if !s.Present() || b[at] != '{' {
		return nil
	}
	var out []Member
	for at = space(b, at+1); b[at] != '}'; at = space(b, at) {
		if b[at] == ',' {
			at = space(b, at+1)
		}
		key := Span{at, skip(b, at)}
		at = space(b, key.End)
		at = space(b, at+1) // the colon
		val := Span{at, skip(b, at)}
		at = val.End
		out = append(out, Member{Name: text(key.Of(b)), Key: key, Val: val})
	}
	return out
}

// Items returns the elements of the array at s under the conditions of
// Members.
func Items(b []byte, s Span) []Span {
	at := s.Start
	if !s.Present() || b[at] != '[' {
		return nil
	}
	var out []Span
	for at = space(b, at+1); b[at] != ']'; at = space(b, at) {
		if b[at] == ',' {
			at = space(b, at+1)
		}
		item := Span{at, skip(b, at)}
		at = item.End
		out = append(out, item)
	}
	return out
}

// Find returns where the value of the member called name of the object at s
// lies, the zero Span if there is none.
func Find(b []byte, s Span, name string) Span {
	for _, m := range Members(b, s) {
		if m.Name == name {
			return m.Val
		}
	}
	return Span{}
}

// Path follows member names from the object at s.
func Path(b []byte, s Span, names ...string) Span {
	for _, n := range names {
		s = Find(b, s, n)
	}
	return s
}

// Whole returns the span of the one value in b, which must have passed Check.
func Whole(b []byte) Span {
	at := space(b, 0)
	return Span{at, skip(b, at)}
}

// Text returns the string at s and whether a string lies there.
func Text(b []byte, s Span) (string, bool) {
	if !s.Present() || b[s.Start] != '"' {
		return "", false
	}
	return text(s.Of(b)), true
}

func text(quoted []byte) string {
	if body := quoted[1 : len(quoted)-1]; bytes.IndexByte(body, '\\') < 0 {
		return string(body)
	}
	out, _ := jsontext.AppendUnquote(nil, quoted) // cannot fail: it was checked
	return string(out)
}

// Quote returns s as a JSON string.
func Quote(s string) []byte {
	out, err := jsontext.AppendQuote(nil, s)
	if err != nil { // invalid UTF-8 was replaced by U+FFFD; still a string
		return out
	}
	return out
}

func space(b []byte, at int) int {
	for b[at] == ' ' || b[at] == '\t' || b[at] == '\n' || b[at] == '\r' {
		at++
	}
	return at
}

// skip returns the position behind the valid value that begins at at.
func skip(b []byte, at int) int {
	switch b[at] {
	case '"':
		for at++; b[at] != '"'; at++ {
			if b[at] == '\\' {
				at++
			}
		}
		return at + 1
	case '{', '[':
		depth := 0
		for ; ; at++ {
			switch b[at] {
			case '"':
				at = skip(b, at) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return at + 1
				}
			}
		}
	}
	for at < len(b) && !bytes.ContainsRune([]byte(",]} \t\r\n"), rune(b[at])) {
		at++
	}
	return at
}

// Edit replaces what At covers by With. An empty At (Start == End) inserts.
type Edit struct {
	At   Span
	With []byte
}

// Splice returns a copy of b with the edits made. They must not overlap; their
// order does not matter. Bytes outside them stay as they are.
func Splice(b []byte, edits ...Edit) []byte {
	slices.SortStableFunc(edits, func(x, y Edit) int { return x.At.Start - y.At.Start })
	size := len(b)
	for _, e := range edits {
		size += len(e.With) - (e.At.End - e.At.Start)
	}
	out, at := make([]byte, 0, size), 0
	for _, e := range edits {
		out = append(append(out, b[at:e.At.Start]...), e.With...)
		at = e.At.End
	}
	return append(out, b[at:]...)
}

// Keep returns the edit that leaves only those items of the array at s for
// which keep answers true, each with its own bytes, in order; ok is false when
// all stay.
func Keep(b []byte, s Span, items []Span, keep func(i int) bool) (e Edit, ok bool) {
	out, n := []byte{'['}, 0
	for i, item := range items {
		if !keep(i) {
			continue
		}
		if n++; n > 1 {
			out = append(out, ',')
		}
		out = append(out, item.Of(b)...)
	}
	return Edit{s, append(out, ']')}, n < len(items)
}

// Set returns the edit that gives the object at s a member name with the value
// raw, replacing one that is there.
func Set(b []byte, s Span, name string, raw []byte) Edit {
	members := Members(b, s)
	for _, m := range members {
		if m.Name == name {
			return Edit{m.Val, raw}
		}
	}
	with := append(append(Quote(name), ':'), raw...)
	if len(members) > 0 {
		with = append(with, ',')
	}
	return Edit{Span{s.Start + 1, s.Start + 1}, with}
}

// fold returns s such that two strings have the same result exactly when
// strings.EqualFold says so: readers that match names without case must not
// see another value than we do.
func fold(s string) string {
	return string(bytes.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, []byte(s)))
}
