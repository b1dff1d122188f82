package inspection_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json/v2"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/inspection"
)

func TestKnownSecretsAreFoundInEveryForm(t *testing.T) {
	for _, secret := range []string{"correct horse battery", "p\"a\\s<s>w&rd/ü€😀", "aaaaaaaa", "\x00\x01binary\xff\xfe", "12345678"} {
		s := inspection.New()
		s.Known().Set("mine", []byte(secret))
		for form, text := range knownForms(secret) {
			b := []byte(text)
			found := s.Scan(b)
			if len(found) != 1 || found[0].Rule != inspection.KnownRule || found[0].Name != "mine" {
				t.Errorf("%q as %s: %+v in %q", secret, form, found, text)
				continue
			}
			if out := string(checkRedact(t, s, b)); strings.Contains(out, secret) || !strings.Contains(out, "[redacted:known]") {
				t.Errorf("%q as %s: %q", secret, form, out)
			}
		}
	}
}

// knownForms writes secret in all the ways that must be found.
func knownForms(secret string) map[string]string {
	quoted, _ := json.Marshal(map[string]string{"v": "a " + secret + " b"})
	nested, _ := json.Marshal(map[string]string{"v": string(quoted)})
	thrice, _ := json.Marshal(map[string]string{"v": string(nested)})
	var units, percents strings.Builder
	for _, r := range secret {
		if r > 0xffff {
			r -= 0x10000
			fmt.Fprintf(&units, `\u%04X\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		} else {
			fmt.Fprintf(&units, `\u%04x`, r)
		}
	}
	for i := range len(secret) {
		fmt.Fprintf(&percents, "%%%02x", secret[i])
	}
	forms := map[string]string{
		"raw": "x " + secret + " y", "alone": secret,
		"query": "a=1&b=" + url.QueryEscape(secret) + "&c=2", "path": "/x/" + url.PathEscape(secret) + "/y",
		"percents": "v=" + percents.String(), "hex": "<" + hex.EncodeToString([]byte(secret)) + ">",
		"query in json": `{"u":"\/x?b=` + url.QueryEscape(secret) + `"}`,
	}
	if strings.ToValidUTF8(secret, "") == secret {
		forms["json"], forms["nested json"], forms["json thrice"], forms["units"] = string(quoted), string(nested), string(thrice), `["`+units.String()+`"]`
	}
	for _, before := range []string{"", "u", "us", "user:", "user"} {
		for name, enc := range map[string]*base64.Encoding{"std": base64.StdEncoding, "url": base64.RawURLEncoding} {
			text := enc.EncodeToString([]byte(before + secret + " tail"))
			forms[fmt.Sprintf("base64 %s after %d", name, len(before))] = "<" + text + ">"
			forms[fmt.Sprintf("escaped base64 %s after %d", name, len(before))] = `["` + strings.ReplaceAll(text, "/", `\/`) + `"]`
			forms[fmt.Sprintf("percent base64 %s after %d", name, len(before))] = "v=" + url.QueryEscape(text)
		}
	}
	return forms
}

func TestOverlappingKnownSecretsAreHiddenWhole(t *testing.T) {
	s := inspection.New()
	s.Known().Set("a", []byte("abcdefgh"))
	s.Known().Set("b", []byte("abcdefghSECRETTAIL"), []byte("efghijklmnop"))
	for in, want := range map[string]string{
		"<abcdefghSECRETTAIL>": "<[redacted:known]>",
		"<abcdefghijklmnop>":   "<[redacted:known]>",
		"<abcdefghSECRET>":     "<[redacted:known]SECRET>",
	} {
		if got := string(s.Redact([]byte(in))); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}

func TestKnownSetChanges(t *testing.T) {
	s := inspection.New()
	k := s.Known()
	see := func(text string) bool { return len(s.Scan([]byte(text))) > 0 }
	k.Set("a", []byte("first one"))
	k.Add("a", []byte("second one"))
	k.Set("short", []byte("1234567"))
	if !see("first one") || !see("second one") || see("1234567 x 1234567") {
		t.Error("after Set and Add")
	}
	k.Set("a", []byte("third one!"))
	if see("first one") || see("second one") || !see("third one!") {
		t.Error("Set did not replace")
	}
	k.Remove("a")
	k.Remove("never there")
	if see("third one!") {
		t.Error("after Remove")
	}
}

func TestKnownIsSafeForConcurrentUse(t *testing.T) {
	s := inspection.New()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			name := fmt.Sprint("name", g)
			value := []byte("value number " + name)
			for range 200 {
				s.Known().Set(name, value)
				if len(s.Scan(value)) != 1 {
					t.Error("own value not found")
				}
				s.Known().Remove(name)
			}
		})
	}
	wg.Wait()
}
