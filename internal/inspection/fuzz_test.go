package inspection_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json/v2"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/inspection"
)

func FuzzRedact(f *testing.F) {
	for _, marked := range found {
		f.Add([]byte(strings.NewReplacer("«", "", "»", "").Replace(marked)), []byte("hunter2hunter2"))
	}
	for _, text := range clean {
		f.Add([]byte(text), []byte("a \"known\" one"))
	}
	f.Fuzz(func(t *testing.T, b, secret []byte) {
		s := inspection.New()
		s.Known().Set("k", secret)
		checkRedact(t, s, b)
		if json, err := json.Marshal(string(b)); err == nil {
			checkRedact(t, s, json)
		}
	})
}

// FuzzKnown hides a secret between two texts, in every form, and looks for it
// in what Redact leaves.
func FuzzKnown(f *testing.F) {
	f.Add("before", "correct horse battery", "after")
	f.Add(`{"a":"`, `p"a\sswörd`, `"}`)
	f.Add("Bearer ", "[redacted:known]x", "]")
	f.Fuzz(func(t *testing.T, before, secret, after string) {
		if len(secret) < inspection.MinKnown || strings.TrimSpace(secret) == "" || !utf8.ValidString(before) || !utf8.ValidString(secret) || !utf8.ValidString(after) || insideMarker(secret) {
			t.Skip()
		}
		s := inspection.New()
		s.Known().Set("k", []byte(secret))
		gone := func(what string, text []byte) []byte {
			out := checkRedact(t, s, text)
			for _, piece := range inspection.BetweenMarkers(out) {
				if bytes.Contains(piece, []byte(secret)) {
					t.Fatalf("%s: %q survives in %q", what, secret, out)
				}
			}
			return out
		}
		gone("raw", []byte(before+secret+after))
		quoted, err := json.Marshal([]string{before, secret, after})
		if err != nil {
			t.Fatal(err)
		}
		var back []string
		if err := json.Unmarshal(gone("json", quoted), &back); err == nil && len(back) == 3 && back[1] == secret {
			t.Fatalf("json: %q survives", secret)
		}
		if out := gone("percent", []byte("v="+url.QueryEscape(secret)+"&")); !strings.Contains(string(out), "[redacted:") {
			t.Fatalf("percent: %q survives in %q", secret, out)
		}
		for n := range 3 {
			text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", n) + secret + after))
			if out := gone("base64", []byte(text)); !strings.Contains(string(out), "[redacted:") {
				t.Fatalf("base64: %q survives in %q", secret, out)
			}
		}
	})
}

func insideMarker(secret string) bool {
	_, allowed := inspection.RuleNames()
	for name := range allowed {
		if strings.Contains("[redacted:"+name+"]", secret) {
			return true
		}
	}
	return false
}
