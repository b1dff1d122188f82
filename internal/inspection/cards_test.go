package inspection_test

import (
	"encoding/json/jsontext"
	"testing"

	"github.com/countersign/countersign/internal/inspection"
)

func TestCardNumbersAreMasked(t *testing.T) {
	s := inspection.New()
	s.Known().Set("db", []byte("Zq7-known-value-41"))
	for in, want := range map[string]string{
		"pay with 4111 1111 1111 1111 now": "pay with [redacted:card] now",
		`{"card":"5555-5555-5555-4444"}`:   `{"card":"[redacted:card]"}`,
		`{"card":"\u0034111111111111111"}`: `{"card":"[redacted:card]"}`,
		`{"amex":378282246310005,"n":1}`:   `{"amex":"[redacted:card]","n":1}`,
		"6011111111111117, 30569309025904": "[redacted:card], [redacted:card]",
		// What is none stays as it is.
		"4111 1111 1111 1112":                       "",
		"IBAN DE89 3704 0044 0532 0130 00":          "",
		"order A4111111111111111":                   "",
		"41111111111111110000000":                   "",
		"1764093600000 2026-11-25 18:00":            "",
		"invoice 4711 of 12400.00 EUR":              "",
		"Zq7-known-value-41 and nothing else at 19": "",
	} {
		if want == "" {
			want = in
		}
		if got := string(s.RedactPersonal([]byte(in))); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func FuzzRedactPersonal(f *testing.F) {
	f.Add([]byte(`{"card":4111111111111111,"x":["4111-1111-1111-1111",1]}`))
	f.Add([]byte("4111 1111 1111 1111"))
	s := inspection.New()
	f.Fuzz(func(t *testing.T, b []byte) {
		out := s.RedactPersonal(b)
		if jsontext.Value(b).IsValid() && !jsontext.Value(out).IsValid() {
			t.Errorf("%q became %q, which is not JSON", b, out)
		}
		if again := s.RedactPersonal(out); string(again) != string(out) {
			t.Errorf("%q became %q, and then %q", b, out, again)
		}
	})
}
