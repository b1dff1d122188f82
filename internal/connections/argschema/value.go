package argschema

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"io"
	"math/big"
	"strconv"
	"strings"
)

// Limits of a document, schema or arguments.
const (
	maxDepth  = 64
	maxValues = 100_000
	maxDigits = 400 // of a number that is compared, and of its exponent's value
)

var (
	errTooMuch = errors.New("nested too deeply, or of too many values")
	errMore    = errors.New("followed by something else")
)

// value is a JSON value. kind is '{', '[', '"', '0', 't', 'f' or 'n'.
type value struct {
	kind    jsontext.Kind
	text    string // of a string, or of a number as it is written
	list    []*value
	members []member
	index   map[string]*value // of members, if they are many
}

type member struct {
	name string
	*value
}

// parse reads one JSON document, strictly.
func parse(raw []byte) (*value, error) {
	p := parser{d: jsontext.NewDecoder(bytes.NewReader(raw))}
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := p.d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errMore
	}
	return v, nil
}

type parser struct {
	d *jsontext.Decoder
	n int
}

func (p *parser) value(depth int) (*value, error) {
	if p.n++; depth > maxDepth || p.n > maxValues {
		return nil, errTooMuch
	}
	t, err := p.d.ReadToken()
	if err != nil {
		return nil, err
	}
	v := &value{kind: t.Kind()}
	switch v.kind {
	case '{':
		return v, p.object(v, depth)
	case '[':
		for p.d.PeekKind() != ']' {
			x, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			v.list = append(v.list, x)
		}
		_, err := p.d.ReadToken()
		return v, err
	case '"', '0':
		v.text = t.String()
	}
	return v, nil
}

func (p *parser) object(v *value, depth int) error {
	for p.d.PeekKind() != '}' {
		t, err := p.d.ReadToken()
		if err != nil {
			return err
		}
		name := t.String()
		x, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		v.members = append(v.members, member{name, x})
	}
	if len(v.members) > 8 {
		v.index = make(map[string]*value, len(v.members))
		for _, m := range v.members {
			v.index[m.name] = m.value
		}
	}
	_, err := p.d.ReadToken()
	return err
}

// get returns a member of an object, nil if there is none.
func (v *value) get(name string) *value {
	if v.index != nil {
		return v.index[name]
	}
	for _, m := range v.members {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// number returns a number exactly; false if it is out of bounds.
func (v *value) number() (*big.Rat, bool) {
	s := v.text
	mantissa, exponent := s, ""
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa, exponent = s[:i], s[i+1:]
	}
	if len(mantissa) > maxDigits {
		return nil, false
	}
	if exponent != "" {
		if e, err := strconv.Atoi(exponent); err != nil || e > maxDigits || e < -maxDigits {
			return nil, false
		}
	}
	return new(big.Rat).SetString(s)
}

// canonical writes a value so that equal values are written alike: members in
// any order, numbers in any form.
func (v *value) canonical(out []byte) []byte {
	switch v.kind {
	case '{':
		sorted := sortedMembers(v.members)
		out = append(out, '{')
		for _, m := range sorted {
			out = append(strconv.AppendQuote(out, m.name), ':')
			out = append(m.canonical(out), ',')
		}
		return append(out, '}')
	case '[':
		out = append(out, '[')
		for _, x := range v.list {
			out = append(x.canonical(out), ',')
		}
		return append(out, ']')
	case '"':
		return strconv.AppendQuote(out, v.text)
	case '0':
		if n, ok := v.number(); ok {
			return append(out, n.RatString()...)
		}
		return append(append(out, '#'), v.text...)
	}
	return append(out, byte(v.kind))
}

func (v *value) equal(o *value) bool {
	if v.kind != o.kind {
		return false
	}
	if v.kind == '"' {
		return v.text == o.text
	}
	return bytes.Equal(v.canonical(nil), o.canonical(nil))
}
