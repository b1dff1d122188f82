package policy

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go/types"
)

// Limits on the arguments of a call. Over a limit the call is denied.
const (
	maxArgDepth  = 32      // nested arrays and objects
	maxArgValues = 100_000 // values in all
	maxArgSet    = 4096    // elements of an array that policy can see
)

// argError says why arguments cannot be decided on. It names the argument and
// never quotes a value.
type argError struct {
	path string
	why  string
}

func (e *argError) Error() string {
	if e.path == "" {
		return "the arguments " + e.why
	}
	return "argument " + strconv.Quote(e.path) + " " + e.why
}

// argReader reads one JSON object by its type, in one pass.
type argReader struct {
	dec    *jsontext.Decoder
	buf    *bytes.Buffer
	path   []string
	values int
}

var argReaders = sync.Pool{New: func() any {
	buf := new(bytes.Buffer)
	return &argReader{dec: jsontext.NewDecoder(buf), buf: buf}
}}

var emptyRecord = types.NewRecord(nil)

// readArgs returns raw, which must be one JSON object without duplicate names
// or invalid UTF-8, as the Cedar record that typ describes. Nothing and null
// are {}.
func readArgs(typ *argType, raw jsontext.Value) (types.Record, error) {
	if len(raw) == 0 {
		raw = jsontext.Value("{}")
	}
	r := argReaders.Get().(*argReader)
	r.buf = bytes.NewBuffer(raw)
	r.dec.Reset(r.buf)
	r.path, r.values = r.path[:0], 0
	rec, err := r.top(typ)
	r.buf = nil
	r.dec.Reset(bytes.NewReader(nil)) // a pooled reader must not keep a body alive
	argReaders.Put(r)
	return rec, err
}

func (r *argReader) top(typ *argType) (types.Record, error) {
	rec := emptyRecord
	switch r.dec.PeekKind() {
	case '{':
		v, err := r.record(typ)
		if err != nil {
			return emptyRecord, err
		}
		rec = v
	case 'n':
		if _, err := r.dec.ReadToken(); err != nil {
			return emptyRecord, r.syntax(err)
		}
		if len(typ.required) > 0 {
			return emptyRecord, &argError{typ.required[0], "is required by the tool's schema and is missing"}
		}
	case jsontext.KindInvalid:
		_, err := r.dec.ReadToken()
		return emptyRecord, r.syntax(err)
	default:
		return emptyRecord, r.fail("must be a JSON object")
	}
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return emptyRecord, r.fail("are followed by other data")
	}
	return rec, nil
}

func (r *argReader) fail(why string) error {
	return &argError{strings.Join(r.path, "."), why}
}

// syntax turns a reader's error into one that quotes nothing.
func (r *argReader) syntax(err error) error {
	why := "are not valid JSON (RFC 8259, UTF-8)"
	if errors.Is(err, jsontext.ErrDuplicateName) {
		why = "contain a duplicate name: programs disagree about which one counts"
	}
	return &argError{"", why}
}

// count enforces the limits on each value as it begins.
func (r *argReader) count() error {
	r.values++
	if r.values > maxArgValues {
		return &argError{"", fmt.Sprintf("have more than %d values", maxArgValues)}
	}
	if r.dec.StackDepth() > maxArgDepth {
		return &argError{"", fmt.Sprintf("are nested deeper than %d levels", maxArgDepth)}
	}
	return nil
}

// value reads the next value. present is false if policy does not see it.
func (r *argReader) value(typ *argType) (v types.Value, present bool, err error) {
	if err := r.count(); err != nil {
		return nil, false, err
	}
	kind := r.dec.PeekKind()
	switch {
	case kind == jsontext.KindInvalid:
		_, err := r.dec.ReadToken()
		return nil, false, r.syntax(err)
	case typ.kind == opaque:
		return nil, false, r.skip()
	case kind == 'n':
		_, err := r.dec.ReadToken()
		if err != nil {
			return nil, false, r.syntax(err)
		}
		return nil, false, nil
	case kind == '{' && typ.kind == recordArg:
		v, err = r.record(typ)
	case kind == '[' && typ.kind == setArg:
		v, err = r.set(typ)
	case kind == '{', kind == '[':
		err = r.mismatch(typ)
	default:
		v, err = r.scalar(typ)
	}
	return v, err == nil, err
}

func (r *argReader) mismatch(typ *argType) error {
	want := [...]string{opaque: "", stringArg: "a string", longArg: "an integer", boolArg: "a boolean",
		decimalArg: "a number", setArg: "an array", recordArg: "an object"}[typ.kind]
	return r.fail("must be " + want + " by the tool's schema")
}

func (r *argReader) scalar(typ *argType) (types.Value, error) {
	tok, err := r.dec.ReadToken()
	if err != nil {
		return nil, r.syntax(err)
	}
	switch kind := tok.Kind(); {
	case kind == '"' && typ.kind == stringArg:
		return types.String(tok.String()), nil
	case (kind == 't' || kind == 'f') && typ.kind == boolArg:
		return types.Boolean(tok.Bool()), nil
	case kind == '0' && typ.kind == longArg:
		n, ok := exact(tok.String(), 0)
		if !ok {
			return nil, r.fail("must be an integer between -9223372036854775808 and 9223372036854775807")
		}
		return types.Long(n), nil
	case kind == '0' && typ.kind == decimalArg:
		n, ok := exact(tok.String(), 4)
		if !ok {
			return nil, r.fail("is a number that policy cannot represent: at most 4 digits after the point and 15 before it")
		}
		d, err := types.NewDecimal(n, -4)
		if err != nil {
			return nil, r.fail("is a number that policy cannot represent")
		}
		return d, nil
	}
	return nil, r.mismatch(typ)
}

func (r *argReader) record(typ *argType) (types.Record, error) {
	if _, err := r.dec.ReadToken(); err != nil {
		return emptyRecord, r.syntax(err)
	}
	m := make(types.RecordMap, len(typ.fields))
	missing := len(typ.required)
	for r.dec.PeekKind() != '}' {
		tok, err := r.dec.ReadToken()
		if err != nil {
			return emptyRecord, r.syntax(err)
		}
		name := tok.String()
		f := typ.fields[name]
		if f == nil {
			if err := r.unknown(typ, name); err != nil {
				return emptyRecord, err
			}
			continue
		}
		r.path = append(r.path, name)
		v, present, err := r.value(f.typ)
		if err != nil {
			return emptyRecord, err
		}
		r.path = r.path[:len(r.path)-1]
		if present {
			m[f.name] = v
		}
		if f.required && (present || f.typ.nullable || f.typ.kind == opaque) {
			missing--
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return emptyRecord, r.syntax(err)
	}
	if missing > 0 {
		return emptyRecord, r.missing(typ, m)
	}
	return types.NewRecord(m), nil
}

// unknown passes over an argument that the schema does not name, or refuses it
// if the schema forbids others.
func (r *argReader) unknown(typ *argType, name string) error {
	if typ.closed {
		if len(name) > 64 {
			name = strings.ToValidUTF8(name[:64], "") + "…"
		}
		r.path = append(r.path, name)
		return r.fail("is not in the tool's schema, which forbids others")
	}
	if known, ok := typ.folded[fold(name)]; ok {
		r.path = append(r.path, known)
		return r.fail("is there under a name that differs only in case: programs disagree about whether it counts")
	}
	if err := r.count(); err != nil {
		return err
	}
	return r.skip()
}

// fold returns the same for names that readers who ignore case take for one.
func fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }

func (r *argReader) missing(typ *argType, m types.RecordMap) error {
	for _, name := range typ.required {
		f := typ.fields[name]
		if _, ok := m[f.name]; !ok && !f.typ.nullable && f.typ.kind != opaque {
			r.path = append(r.path, name)
			return r.fail("is required by the tool's schema and is missing")
		}
	}
	return r.fail("lack something that the tool's schema requires")
}

func (r *argReader) set(typ *argType) (types.Set, error) {
	if _, err := r.dec.ReadToken(); err != nil {
		return types.Set{}, r.syntax(err)
	}
	var elems []types.Value
	for r.dec.PeekKind() != ']' {
		v, present, err := r.value(typ.elem)
		if err != nil {
			return types.Set{}, err
		}
		if !present {
			if !typ.elem.nullable {
				return types.Set{}, r.fail("contains null, which the tool's schema does not allow")
			}
			continue
		}
		if len(elems) == maxArgSet {
			return types.Set{}, r.fail(fmt.Sprintf("has more than %d elements", maxArgSet))
		}
		elems = append(elems, v)
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return types.Set{}, r.syntax(err)
	}
	return types.NewSet(elems...), nil
}

// skip reads one value strictly and drops it.
func (r *argReader) skip() error {
	depth := r.dec.StackDepth()
	for {
		if _, err := r.dec.ReadToken(); err != nil {
			return r.syntax(err)
		}
		switch d := r.dec.StackDepth(); {
		case d <= depth:
			return nil
		case d > maxArgDepth:
			return r.count()
		}
	}
}

// exact returns the JSON number s times 10^places if that is an integer that
// fits 64 bits. It never rounds.
func exact(s string, places int) (int64, bool) {
	digits, neg := strings.CutPrefix(s, "-")
	exp := places
	if i := strings.IndexAny(digits, "eE"); i >= 0 {
		e, err := strconv.Atoi(digits[i+1:])
		if err != nil || e > math.MaxInt32 || e < math.MinInt32 {
			e = math.MaxInt32 // out of reach either way, unless the digits are zero
		}
		exp, digits = exp+e, digits[:i]
	}
	whole, frac, _ := strings.Cut(digits, ".")
	digits = whole + frac
	exp -= len(frac)
	digits = strings.TrimLeft(digits, "0")
	if digits == "" {
		return 0, true
	}
	trimmed := strings.TrimRight(digits, "0")
	exp += len(digits) - len(trimmed)
	if exp < 0 || len(trimmed)+exp > 19 {
		return 0, false
	}
	n, err := strconv.ParseUint(trimmed+strings.Repeat("0", exp), 10, 64)
	switch {
	case err != nil:
		return 0, false
	case neg && n <= 1<<63:
		return -int64(n), true //nolint:gosec // wraps to the minimum exactly when n is 1<<63
	case !neg && n <= math.MaxInt64:
		return int64(n), true
	}
	return 0, false
}
