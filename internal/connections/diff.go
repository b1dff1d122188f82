package connections

import (
	"bytes"
	"encoding/json/jsontext"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Line is one difference between two definitions, for people.
type Line struct {
	Path string `json:"path" doc:"where, as a JSON Pointer (RFC 6901)"`
	Old  string `json:"old" doc:"JSON, invisible characters escaped; empty: was not there"`
	New  string `json:"new" doc:"JSON, invisible characters escaped; empty: is no longer there"`
}

// maxLines bounds a difference; what is left out is said in its last line.
const maxLines = 500

// Diff returns what differs between two definitions, by path. Values are shown
// as JSON with every character escaped that a terminal or an eye would not see:
// instructions hide there. Either side may be empty. It never fails: bytes that
// are not JSON are shown as a string.
func Diff(old, now jsontext.Value) []Line {
	d := differ{}
	d.compare("", read(old), read(now))
	if len(d.lines) > maxLines {
		left := len(d.lines) - maxLines
		d.lines = append(d.lines[:maxLines], Line{Path: "…", New: fmt.Sprintf("and %d more differences", left)})
	}
	return d.lines
}

// node is a JSON value opened just far enough to be compared.
type node struct {
	kind    jsontext.Kind
	raw     string           // of a leaf: its bytes
	members map[string]*node // of an object
	items   []*node          // of an array
}

func read(raw jsontext.Value) *node {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	n, err := readNode(dec)
	if err != nil || len(bytes.TrimSpace(raw[dec.InputOffset():])) > 0 {
		return &node{kind: '"', raw: quote(string(raw))}
	}
	return n
}

func readNode(dec *jsontext.Decoder) (*node, error) {
	switch kind := dec.PeekKind(); {
	case kind == '{':
		return readObject(dec)
	case kind == '[':
		return readArray(dec)
	default:
		v, err := dec.ReadValue()
		return &node{kind: kind, raw: string(v)}, err
	}
}

// readDeep keeps what is nested too deeply as one canonical text.
func readDeep(dec *jsontext.Decoder) (*node, error) {
	v, err := dec.ReadValue()
	if err != nil {
		return nil, err
	}
	v = v.Clone()
	err = canonicalize(&v)
	return &node{raw: string(v)}, err
}

func readObject(dec *jsontext.Decoder) (*node, error) {
	if dec.StackDepth() >= maxDepth {
		return readDeep(dec)
	}
	n := &node{kind: '{', members: map[string]*node{}}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		if n.members[key], err = readNode(dec); err != nil {
			return nil, err
		}
	}
	_, err := dec.ReadToken()
	return n, err
}

func readArray(dec *jsontext.Decoder) (*node, error) {
	if dec.StackDepth() >= maxDepth {
		return readDeep(dec)
	}
	n := &node{kind: '['}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	for dec.PeekKind() != ']' {
		item, err := readNode(dec)
		if err != nil {
			return nil, err
		}
		n.items = append(n.items, item)
	}
	_, err := dec.ReadToken()
	return n, err
}

type differ struct{ lines []Line }

func (d *differ) compare(path string, old, now *node) {
	switch {
	case old == nil && now == nil:
	case old != nil && now != nil && old.kind == '{' && now.kind == '{':
		keys := maps.Clone(old.members)
		maps.Copy(keys, now.members)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			d.compare(path+"/"+pointer(k), old.members[k], now.members[k])
		}
	case old != nil && now != nil && old.kind == '[' && now.kind == '[':
		for i := range max(len(old.items), len(now.items)) {
			d.compare(path+"/"+strconv.Itoa(i), item(old, i), item(now, i))
		}
	default:
		if a, b := old.text(), now.text(); a != b {
			d.lines = append(d.lines, Line{Path: visible(path), Old: a, New: b})
		}
	}
}

func item(n *node, i int) *node {
	if i < len(n.items) {
		return n.items[i]
	}
	return nil
}

// pointer escapes one reference token (RFC 6901 section 3).
func pointer(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

func (n *node) text() string {
	if n == nil {
		return ""
	}
	var b strings.Builder
	n.write(&b)
	return b.String()
}

func (n *node) write(b *strings.Builder) {
	switch n.kind {
	case '{':
		b.WriteByte('{')
		for i, k := range slices.Sorted(maps.Keys(n.members)) {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(visible(quote(k)) + ":")
			n.members[k].write(b)
		}
		b.WriteByte('}')
	case '[':
		b.WriteByte('[')
		for i, it := range n.items {
			if i > 0 {
				b.WriteByte(',')
			}
			it.write(b)
		}
		b.WriteByte(']')
	case '"':
		// Unescaped and escaped anew, so that "\u0041" and "A" are the same.
		if plain, err := jsontext.AppendUnquote(nil, n.raw); err == nil {
			b.WriteString(visible(quote(string(plain))))
			return
		}
		b.WriteString(visible(n.raw))
	default:
		b.WriteString(visible(n.raw))
	}
}

func quote(s string) string {
	q, err := jsontext.AppendQuote(nil, s)
	if err != nil { // invalid UTF-8 is replaced, and still quoted
		q, _ = jsontext.AppendQuote(nil, strings.ToValidUTF8(s, "\ufffd"))
	}
	return string(q)
}

// visible escapes what does not show: control, format and private-use
// characters, unusual spaces, tags, variation selectors.
func visible(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func hidden(r rune) bool {
	if r == ' ' {
		return false
	}
	return !unicode.IsGraphic(r) || unicode.IsSpace(r) || unicode.In(r, unicode.Cf, unicode.Zs, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}
