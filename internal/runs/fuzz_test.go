package runs_test

import (
	"bytes"
	"encoding/json/jsontext"
	"testing"

	"github.com/countersign/countersign/internal/runs"
)

// What has a canonical form is strict JSON, has it whatever its layout, and is
// the same as itself in the form of RFC 8785 as far as that does not round.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":1.50,"a":[true,null,"\u00e9"]}`, `-0.0e5`, `1e-400`, `{"a":{"a":1}}`, `"\ud83d\ude00"`, `100`, `{"a":1,"a":2}`, `[1 2]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := runs.Canonical(jsontext.Value(s))
		if err != nil {
			return
		}
		v := jsontext.Value(s).Clone()
		if !v.IsValid() {
			t.Fatalf("%q has a canonical form and is not strict JSON", s)
		}
		if err := v.Indent(); err != nil {
			t.Fatal(err)
		}
		if again, err := runs.Canonical(v); len(v) <= 256<<10 && (err != nil || !bytes.Equal(got, again)) {
			t.Fatalf("%q and %q (%v)", got, again, err)
		}
		if err := v.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false)); err != nil {
			t.Fatal(err)
		}
		if again, err := runs.Canonical(v); err != nil || !bytes.Equal(got, again) {
			t.Fatalf("%q and %q (%v)", got, again, err)
		}
	})
}
