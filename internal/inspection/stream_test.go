package inspection_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/inspection"
)

// pieces feeds text to a stream in pieces of the sizes that next returns, and
// returns what it found, with what it passed on.
func pieces(s *inspection.Scanner, text []byte, step int, next func() int) (found []string, passed []byte) {
	at := 0
	st := s.Stream(inspection.All, step, func(piece []byte, f *inspection.Finding) {
		passed = append(passed, piece...)
		if f != nil {
			if f.Start != at || f.End != at+len(piece) {
				found = append(found, fmt.Sprintf("WRONG PLACE %+v at %d", *f, at))
			}
			found = append(found, fmt.Sprintf("%s %v %d-%d", f.Rule, f.Kind, f.Start, f.End))
		}
		at += len(piece)
	})
	for i := 0; i < len(text); {
		n := min(max(1, next()), len(text)-i)
		st.Write(text[i : i+n])
		i += n
	}
	st.Close()
	return found, passed
}

func whole(n int) func() int { return func() int { return n } }

func TestStreamFindsWhatInspectFinds(t *testing.T) {
	s := inspection.New()
	s.Known().Set("mine", []byte("correct horse battery staple, and a tail that is longer than what is always held back by a stream, by far: "+fill(60, 300, letters)))
	known := "correct horse battery staple, and a tail that is longer than what is always held back by a stream, by far: " + fill(60, 300, letters)
	texts := map[string]string{"known": known, "long jwt": "eyJhbGciOiJIUzI1NiJ9." + fill(61, 6000, letters) + "." + fill(62, 40, letters)}
	for name, marked := range found {
		texts[name] = strings.NewReplacer("«", "", "»", "").Replace(marked)
	}
	for name, text := range texts {
		text = strings.Repeat("plain words before ", 40) + text + strings.Repeat(" plain words after", 40)
		var want []string
		for _, f := range s.Inspect([]byte(text), inspection.All) {
			want = append(want, fmt.Sprintf("%s %v %d-%d", f.Rule, f.Kind, f.Start, f.End))
		}
		for _, step := range []int{inspection.Live, inspection.Bulk} {
			got, passed := pieces(s, []byte(text), step, whole(1))
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("%s every %d bytes:\n got %q\nwant %q", name, step, got, want)
			}
			if string(passed) != text {
				t.Errorf("%s: what was passed on is not the text", name)
			}
		}
	}
}

// FuzzStream cuts a text in two ways: what is found must be the same, and all of
// the text must be passed on.
func FuzzStream(f *testing.F) {
	for _, marked := range found {
		f.Add([]byte(strings.Repeat("word ", 30)+strings.NewReplacer("«", "", "»", "").Replace(marked)), uint64(1), []byte("hunter2hunter2"))
	}
	for _, unit := range hostile {
		f.Add([]byte(strings.Repeat(unit, 100)), uint64(7), []byte("AKIAABCDEFGHIJKLMNOP"))
	}
	f.Fuzz(func(t *testing.T, text []byte, seed uint64, secret []byte) {
		s := inspection.New()
		s.Known().Set("k", secret)
		r := rand.New(rand.NewPCG(seed, 1))
		want, passed := pieces(s, text, inspection.Live, whole(len(text)))
		if !bytes.Equal(passed, text) {
			t.Fatalf("passed %q of %q", passed, text)
		}
		got, passed := pieces(s, text, inspection.Live, func() int { return r.IntN(100) })
		if strings.Join(got, "\n") != strings.Join(want, "\n") || !bytes.Equal(passed, text) {
			t.Fatalf("in pieces %q, whole %q", got, want)
		}
	})
}

func TestStreamHoldsLittle(t *testing.T) {
	s := inspection.New()
	for name, c := range map[string]struct {
		text string
		most int
	}{
		"prose":          {strings.Repeat("ordinary words of an answer, ", 400), 256},
		"no spaces":      {strings.Repeat("汉字没有空格", 2000), 256},
		"one line":       {strings.Repeat("A", 1<<20), 8 << 10},
		"private key":    {"-----BEGIN PRIVATE KEY-----\n" + strings.Repeat("QUFB", 1<<18), 80 << 10},
		"words of rules": {strings.Repeat("password: token= key ", 1000), 256},
	} {
		st := s.Stream(inspection.All, inspection.Live, func([]byte, *inspection.Finding) {})
		most := 0
		if len(c.text) > 1<<18 {
			st = s.Stream(inspection.All, inspection.Bulk, func([]byte, *inspection.Finding) {})
			c.most += inspection.Bulk
		}
		for i := 0; i < len(c.text); i += 32 {
			st.Write([]byte(c.text[i:min(len(c.text), i+32)]))
			most = max(most, st.Held())
		}
		if most > c.most {
			t.Errorf("%s: %d bytes were held, over %d", name, most, c.most)
		}
	}
}

// deep encodes a secret n times over.
func deep(secret string, n int) string {
	for range n {
		secret = base64.StdEncoding.EncodeToString([]byte("value: " + secret + " and more text around it"))
	}
	return secret
}

func TestEncodedSecretsAreFound(t *testing.T) {
	s := inspection.New()
	key := "ghp_" + fill(70, 36, letters)
	escaped := ""
	for _, c := range key {
		escaped += fmt.Sprintf("%%%02X", c)
	}
	for name, text := range map[string]string{
		"base64": deep(key, 1), "base64 twice": deep(key, 2), "base64 three times": deep(key, 3), "hex": fmt.Sprintf("%x", "the key is "+key+" here"),
		"base64 lines":    wrapped(deep(strings.Repeat("words ", 20)+key+strings.Repeat(" words", 20), 1)),
		"percent":         escaped,
		"zero width":      "ghp_" + strings.Join(strings.Split(key[4:], ""), "\u200b"),
		"full width":      strings.Map(func(r rune) rune { return r - '!' + 0xff01 }, key),
		"mathematical":    strings.Map(mathematical, key),
		"cyrillic prefix": "а" + key[0:0] + " gh\u0440_" + key[4:],
	} {
		if got := s.Scan([]byte("x: " + text + " .")); len(got) == 0 {
			t.Errorf("%s: nothing found in %.80q", name, text)
		}
		checkRedact(t, s, []byte("x: "+text+" ."))
	}
}

func mathematical(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z':
		return r - 'a' + 0x1d41a
	case r >= 'A' && r <= 'Z':
		return r - 'A' + 0x1d400
	case r >= '0' && r <= '9':
		return r - '0' + 0x1d7ce
	}
	return r
}

func wrapped(code string) string {
	var b strings.Builder
	for i := 0; i < len(code); i += 64 {
		b.WriteString(code[i:min(len(code), i+64)] + "\n")
	}
	return b.String()
}

func TestHostileInputIsBounded(t *testing.T) {
	s := inspection.New()
	s.Known().Set("k", []byte("AKIAABCDEFGHIJKLMNOP"))
	binary := make([]byte, 1<<20)
	r := rand.New(rand.NewPCG(5, 6))
	for i := range binary {
		binary[i] = byte(r.Uint32())
	}
	texts := map[string][]byte{"binary": binary, "deep": []byte(deep(strings.Repeat("x", 1<<10), 12)), "line": bytes.Repeat([]byte("A"), 1<<20), "quotes": bytes.Repeat([]byte(`\`), 1<<20)}
	for name, unit := range hostile {
		texts[name] = []byte(strings.Repeat(unit, 64<<10/len(unit)))
	}
	for name, text := range texts {
		passed := 0
		st := s.Stream(inspection.All, inspection.Bulk, func(p []byte, _ *inspection.Finding) { passed += len(p) })
		st.Write(text)
		st.Close()
		if passed != len(text) {
			t.Errorf("%s: %d of %d bytes passed", name, passed, len(text))
		}
		s.Inspect(text, inspection.All)
	}
}
