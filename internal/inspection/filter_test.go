package inspection_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/inspection"
)

// TestFilter compares what the rules find behind the prefilter with what they
// find when every rule is tried at every place.
func TestFilter(t *testing.T) {
	bodies := []string{fill(1, 90, "0123456789abcdef"), fill(2, 90, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"), fill(3, 90, letters), ": " + fill(4, 30, letters) + " "}
	var texts []string
	for _, l := range inspection.Literals() {
		for n, body := range bodies {
			texts = append(texts, " "+l+body[n:], "a "+strings.ToUpper(l)+body)
		}
	}
	for _, text := range clean {
		texts = append(texts, text, " "+text)
	}
	for _, l := range inspection.Literals() {
		texts = append(texts, l, " "+l, "so "+l)
	}
	for _, marked := range found {
		text := strings.NewReplacer("«", "", "»", "").Replace(marked)
		texts = append(texts, text, " "+text)
	}
	total := 0
	for _, text := range texts {
		fast, slow := inspection.ScanRules([]byte(text))
		total += len(slow)
		if !reflect.DeepEqual(fast, slow) {
			t.Errorf("%q\nbehind the filter %+v\nwithout it %+v", text, fast, slow)
		}
	}
	if total < 1000 {
		t.Errorf("%d findings in all: the texts test nothing", total)
	}
}

// TestFewEscapes looks for what stands behind escapes in a long text, of which
// only the parts around them are decoded.
func TestFewEscapes(t *testing.T) {
	prose := strings.Repeat("What a run was told and read is known. ", 5000)
	var pem string
	for n := range 100 {
		pem += fill(uint64(n), 64, letters) + "\n"
	}
	s := inspection.New()
	s.Known().Set("k", []byte(pem))
	for name, secret := range map[string]string{
		"percent": "p%61ssword=" + fill(1, 20, letters), "escape": `p\u0061ssword=` + fill(2, 20, letters), "wide": "p\u0430ssword=" + fill(3, 20, letters),
		"twice": `%5cn ` + prose[:100000] + `p%61ssword=` + fill(8, 20, letters), "deeper": `p%5cu0061ssword=` + fill(4, 20, letters), "a word after": "%41" + strings.Repeat("x", 9000) + " password=" + fill(5, 20, letters),
		"long, known": pem[:5450] + fmt.Sprintf("%%%02x", pem[5450]) + pem[5451:], "a long word": "eyJhbGciOiJIUzI1NiJ9." + fill(6, 9000, letters) + "%2e" + fill(7, 43, letters),
		"and after": "eyJhbGciOiJIUzI1NiJ9%2e" + fill(6, 9000, letters) + "." + fill(7, 43, letters),
	} {
		for where, text := range map[string]string{"alone": secret, "first": secret + " " + prose, "last": prose + secret, "amid": prose + secret + " " + prose, "twice": prose + secret + " " + prose + secret + " " + prose} {
			t.Run(name+"/"+where, func(t *testing.T) {
				want := strings.Count(text, secret)
				found := s.Inspect([]byte(text), inspection.Secrets)
				if len(found) != want {
					t.Fatalf("%d findings: %+v", len(found), found)
				}
				at := 0
				for _, f := range found {
					at += strings.Index(text[at:], secret)
					if f.Start < at || f.End != at+len(secret) {
						t.Errorf("%+v is not in %d to %d", f, at, at+len(secret))
					}
					at = f.End
				}
				if n := inspection.Decoded([]byte(text)); n > 200_000 {
					t.Errorf("%d bytes of decoded text for one of %d", n, len(text))
				}
			})
		}
	}
}

// TestCutNumber has a number at the places where a decoded part is cut out: what
// is left of it is no number.
func TestCutNumber(t *testing.T) {
	const card = "4111 1111 1111 1111" // but for the group beside it
	prose, s := strings.Repeat("What a run was told and read. ", 1000), inspection.New()
	for n := 4000; n < 4150; n++ {
		between := (" " + prose)[:n] + " "
		for _, text := range []string{prose + "1234 " + card + between + "%41 " + prose, prose + "%41 " + between + card + " 1234 " + prose} {
			if found := s.Inspect([]byte(text), inspection.Personal); len(found) > 0 {
				t.Fatalf("%d: %+v", n, found)
			}
		}
	}
}
