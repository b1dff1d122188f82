package runs

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Limits on the arguments of one proposal. What is over them was not proposed.
const (
	maxArgs  = 256 << 10 // bytes
	maxDepth = 64
)

var (
	errSize   = errors.New("the arguments are too long or nested too deeply")
	errNumber = errors.New("a number is out of any range")
	errMore   = errors.New("something follows the arguments")
)

// canonical writes a JSON value so that two of them are the same bytes exactly
// if they are the same value: members by name, numbers as a decimal without
// rounding, texts by their code points. A value in which a name stands twice has
// no canonical form.
func canonical(v jsontext.Value) ([]byte, error) {
	if len(v) > maxArgs {
		return nil, errSize
	}
	d := jsontext.NewDecoder(bytes.NewReader(v))
	out, err := appendValue(nil, d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errMore
	}
	return out, nil
}

func appendValue(out []byte, d *jsontext.Decoder, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, errSize
	}
	switch d.PeekKind() {
	case '{':
		return appendObject(out, d, depth)
	case '[':
		return appendArray(out, d, depth)
	}
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case '0':
		return appendNumber(out, t.String())
	case '"':
		return jsontext.AppendQuote(out, t.String())
	}
	return append(out, t.String()...), nil
}

func appendObject(out []byte, d *jsontext.Decoder, depth int) ([]byte, error) {
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	type member struct {
		name  string
		value []byte
	}
	var members []member
	for d.PeekKind() != '}' {
		t, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		name := t.String()
		value, err := appendValue(nil, d, depth+1)
		if err != nil {
			return nil, err
		}
		members = append(members, member{name, value})
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	out = append(out, '{')
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = jsontext.AppendQuote(out, m.name); err != nil {
			return nil, err
		}
		out = append(append(out, ':'), m.value...)
	}
	return append(out, '}'), nil
}

func appendArray(out []byte, d *jsontext.Decoder, depth int) ([]byte, error) {
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	out = append(out, '[')
	for first := true; d.PeekKind() != ']'; first = false {
		if !first {
			out = append(out, ',')
		}
		var err error
		if out, err = appendValue(out, d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.ReadToken()
	return append(out, ']'), err
}

// appendNumber writes a JSON number as DIGITSeEXPONENT without zeros at either
// end: 1, 1.0 and 10e-1 are 1e0; no two different numbers are the same.
func appendNumber(out []byte, s string) ([]byte, error) {
	mantissa, exponent := s, int64(0)
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		var err error
		if exponent, err = strconv.ParseInt(s[i+1:], 10, 32); err != nil {
			return nil, errNumber
		}
		mantissa = s[:i]
	}
	mantissa, negative := strings.CutPrefix(mantissa, "-")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	exponent -= int64(len(fraction))
	trimmed := strings.TrimRight(digits, "0")
	exponent += int64(len(digits) - len(trimmed))
	if trimmed = strings.TrimLeft(trimmed, "0"); trimmed == "" {
		return append(out, '0'), nil
	}
	if negative {
		out = append(out, '-')
	}
	out = append(append(out, trimmed...), 'e')
	return strconv.AppendInt(out, exponent, 10), nil
}
