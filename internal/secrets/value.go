package secrets

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"slices"
)

// Redacted is what a Value prints as.
const Redacted = "[redacted]"

// Value is a secret in memory. Whatever prints, logs or encodes it gets
// Redacted; only Expose gives the bytes. The zero Value holds nothing.
//
// The bytes are behind a function, because fmt calls no methods on unexported
// fields of other structs, and follows pointers there for verbs that do not
// fit. Of a function it knows only the address; so do packages that dump
// values by reflection.
type Value struct{ box func() *box }

type box struct{ b []byte }

func boxed(b []byte) Value {
	x := &box{b}
	return Value{func() *box { return x }}
}

// NewValue returns a Value with a copy of b.
func NewValue(b []byte) Value { return boxed(slices.Clone(b)) }

// Expose returns the bytes themselves, which the caller must not change or
// keep. Only the gateway's forwarding, the start of a stdio child and provider
// code may call it.
func (v Value) Expose() []byte {
	if v.box == nil {
		return nil
	}
	return v.box().b
}

// Len returns the length in bytes.
func (v Value) Len() int {
	if v.box == nil {
		return 0
	}
	return len(v.box().b)
}

// IsZero reports whether v holds nothing.
func (v Value) IsZero() bool { return v.Len() == 0 }

// Equal reports whether both hold the same bytes, in a time that tells nothing
// but their lengths.
func (v Value) Equal(w Value) bool { return subtle.ConstantTimeCompare(v.Expose(), w.Expose()) == 1 }

// Clone returns a Value of its own with the same bytes.
func (v Value) Clone() Value {
	if v.box == nil {
		return Value{}
	}
	return NewValue(v.box().b)
}

// Wipe overwrites the bytes. All copies of v share them; Clones do not. The
// caller must be the last to use them.
func (v Value) Wipe() {
	if v.box != nil {
		x := v.box()
		clear(x.b)
		x.b = nil
	}
}

// Format implements fmt.Formatter for every verb.
func (v Value) Format(f fmt.State, _ rune) { io.WriteString(f, Redacted) }

// String implements fmt.Stringer.
func (v Value) String() string { return Redacted }

// GoString implements fmt.GoStringer.
func (v Value) GoString() string { return Redacted }

// LogValue implements slog.LogValuer.
func (v Value) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements encoding.TextMarshaler, and so covers XML and map keys.
func (v Value) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON implements json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// MarshalYAML implements yaml.Marshaler.
func (v Value) MarshalYAML() (any, error) { return Redacted, nil }

// MarshalBinary implements encoding.BinaryMarshaler.
func (v Value) MarshalBinary() ([]byte, error) { return []byte(Redacted), nil }

// GobEncode implements gob.GobEncoder.
func (v Value) GobEncode() ([]byte, error) { return []byte(Redacted), nil }
