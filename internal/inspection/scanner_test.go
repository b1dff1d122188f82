package inspection_test

import (
	"encoding/json/jsontext"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/inspection"
)

// fill returns n characters of alphabet, the same on every run, so that no
// file here holds anything that looks like a real credential.
func fill(seed uint64, n int, alphabet string) string {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

const (
	letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	hexes   = "0123456789abcdef"
	uppers  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

func pem(kind string) string {
	return "-----BEGIN " + kind + "-----\n" + fill(1, 64, letters) + "\n" + fill(2, 40, letters) + "==\n-----END " + kind + "-----"
}

// found are texts with the part that must be hidden between « and ».
var found = map[string]string{
	"openai project":     "use «sk-proj-" + fill(3, 60, letters+"-_") + "»",
	"openai old":         "key=«sk-" + fill(4, 20, letters) + "T3BlbkFJ" + fill(5, 20, letters) + "».",
	"anthropic":          "«sk-ant-api03-" + fill(6, 93, letters+"-_") + "» is mine",
	"google":             "?key=«AIza" + fill(7, 35, letters) + "»&x=1",
	"groq":               "«gsk_" + fill(8, 52, letters) + "»",
	"huggingface":        "«hf_" + fill(9, 34, letters) + "»",
	"replicate":          "«r8_" + fill(10, 37, letters) + "»",
	"aws pair":           "«AKIA" + fill(11, 16, uppers) + "» and «" + fill(12, 40, letters+"/+") + "» here",
	"aws secret first":   "«" + fill(13, 40, letters+"+") + "», «ASIA" + fill(14, 16, uppers) + "»",
	"github":             "git clone with «ghp_" + fill(15, 36, letters) + "»",
	"github fine":        "«github_pat_" + fill(16, 22, letters) + "_" + fill(17, 59, letters) + "»",
	"gitlab":             "«glpat-" + fill(18, 20, letters) + "»",
	"slack":              "«xoxb-" + fill(19, 12, "0123456789") + "-" + fill(20, 24, letters) + "»",
	"slack hook":         "https://«hooks.slack.com/services/T0" + fill(21, 8, uppers) + "/B0" + fill(22, 8, uppers) + "/" + fill(23, 24, letters) + "»",
	"stripe":             "«sk_live_" + fill(24, 24, letters) + "»",
	"twilio":             "sid «SK" + fill(25, 32, hexes) + "»",
	"sendgrid":           "«SG." + fill(26, 22, letters) + "." + fill(27, 43, letters) + "»",
	"npm":                "//registry/:_authToken=«npm_" + fill(28, 36, letters) + "»",
	"pypi":               "«pypi-AgEIcHlwaS5vcmc" + fill(29, 60, letters) + "»",
	"jwt":                "cookie «eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + fill(30, 43, letters) + "».",
	"pem":                "x «" + pem("RSA PRIVATE KEY") + "» y",
	"pem cut off":        "«-----BEGIN PRIVATE KEY-----\n" + fill(31, 64, letters) + "\n" + fill(32, 20, letters) + "»",
	"agent key":          "Set «csk_" + fill(33, 49, letters) + "»!",
	"user token":         "«csu_" + fill(34, 49, letters) + "»",
	"database url":       "postgres://app:«hunter2»@db/prod",
	"url with at sign":   "redis://:«p@ss:w»@cache:6379/0",
	"bearer":             "Authorization: Bearer «" + fill(35, 32, letters) + "»",
	"basic":              "Authorization: Basic «dXNlcjpwYXNzd29yZA==»",
	"env password":       "DB_PASSWORD=«hunter2hunter2»\n",
	"typed":              `var password string = "«hunter2hunter2»"`,
	"json password":      `{"password": "«Tr0ub4dor»"}`,
	"json quoted escape": `{"password":"«ab\"cdef1»","x":1}`,
	"json nested":        `{"arguments":"{\"api_key\":\"«hunter22hunter»\"}"}`,
	"json nested twice":  `{"a":"{\"b\":\"{\\\"api_key\\\":\\\"«hunter22hunter»\\\"}\"}"}`,
	"option":             "mysql --password «hunter2hunter2» -h db",
	"xml":                "<password>«hunter2hunter2»</password>",
	"client secret":      "client_secret: «" + fill(36, 32, hexes) + "»",
	"access token":       `"access_token":"«` + fill(37, 32, letters) + `»"`,
	"escaped slash":      `"postgres:\/\/app:«hunter2»@db\/prod"`,
	"percent":            "q=sk-proj%2D" + "x&k=«%73k-proj-" + fill(38, 40, letters) + "»",
	"after line break":   `"see\n«ghp_` + fill(39, 36, letters) + `»\nthere"`,
	"fake marker":        `password="«[redacted:-hunter2hunter2»"`,
	"fake rule":          `password="«[redacted:hunter2hunter2]»"`,
}

func TestSecretsAreFoundExactly(t *testing.T) {
	s := inspection.New()
	for name, marked := range found {
		t.Run(name, func(t *testing.T) {
			text := strings.NewReplacer("«", "", "»", "").Replace(marked)
			var want []string
			for _, part := range strings.Split(marked, "«")[1:] {
				hidden, _, _ := strings.Cut(part, "»")
				want = append(want, hidden)
			}
			var got []string
			for _, f := range s.Scan([]byte(text)) {
				got = append(got, text[f.Start:f.End])
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("in %s\n got %q\nwant %q", text, got, want)
			}
			checkRedact(t, s, []byte(text))
		})
	}
}

// clean are texts that must pass untouched.
var clean = map[string]string{
	"prose":             "The password is in the vault; a token is a key, and the key to the secret is a token. API keys: see below.",
	"counts":            `{"max_tokens": 1024, "total_tokens": 1234567890, "token": 12345678901234567}`,
	"reference":         `{"secret":"secret://openai-production-2026","name":"x"}`,
	"name of a secret":  `{"secret":"openai-key-2026","api_key":"openai-key"}`,
	"our identifiers":   `{"credential":"key_06h0aqqx65vv9fj9brqbwvdcbc","token":"tok_06h0aqqx65vv9fj9brqbwvdcbc"}`,
	"variable":          `password = os.environ["DB_PASSWORD_1"]; token: ${{ secrets.TOKEN_12345678 }}`,
	"code":              `password := readPassword2(stdin)`,
	"schema":            `{"password":{"type":"string","minLength":8}}`,
	"word in word":      "task-force-2024-members-and-others-in-the-room disk-0123456789abcdefghijkl",
	"plain url":         "https://example.org:8443/a@b?token=abc",
	"user without pass": "ssh://git@host/repo.git",
	"bearer of news":    "The bearer of this letter; Basic authentication is basic.",
	"public key":        "-----BEGIN PUBLIC KEY-----\n" + fill(50, 64, letters) + "\n-----END PUBLIC KEY-----",
	"certificate":       "-----BEGIN CERTIFICATE-----\n" + fill(51, 64, letters) + "\n-----END CERTIFICATE-----",
	"base64 image":      "data:image/png;base64," + fill(52, 4000, letters+"+/"),
	"hash":              "sha256:" + fill(53, 64, hexes) + " commit " + fill(54, 40, hexes),
	"marker":            `{"password":"[redacted:password]","k":"[redacted:known]"}`,
}

func TestOrdinaryTextPassesUntouched(t *testing.T) {
	s := inspection.New()
	for name, text := range clean {
		t.Run(name, func(t *testing.T) {
			b := []byte(text)
			if got := s.Redact(b); string(got) != text {
				t.Errorf("became %s", got)
			} else if &got[0] != &b[0] {
				t.Error("clean input was copied")
			}
		})
	}
}

// checkRedact checks what Redact promises about any input.
func checkRedact(t *testing.T, s *inspection.Scanner, b []byte) []byte {
	t.Helper()
	before := string(b)
	out := s.Redact(b)
	if string(b) != before {
		t.Fatalf("Redact changed its argument %q", before)
	}
	if again := s.Redact(out); string(again) != string(out) {
		t.Fatalf("not idempotent:\n  in %q\nonce %q\ntwice %q", before, out, again)
	}
	if jsontext.Value(b).IsValid() && !jsontext.Value(out).IsValid() {
		t.Fatalf("JSON broke:\n  in %s\nout %s", before, out)
	}
	at := 0
	for _, f := range s.Scan(b) {
		if f.Start < at || f.End <= f.Start || f.End > len(b) {
			t.Fatalf("finding %+v after %d in %d bytes", f, at, len(b))
		}
		at = f.End
	}
	return out
}

func TestMarkersCarryExactlyTheRulesNames(t *testing.T) {
	written, allowed := inspection.RuleNames()
	if !maps.Equal(written, allowed) {
		t.Errorf("rules write %v, markers may carry %v", written, allowed)
	}
	for name := range allowed {
		if len(name) > 24 {
			t.Errorf("%q is longer than a rule's name may be", name)
		}
	}
}

func TestJSONStaysValidWhereSplicingWouldBreakIt(t *testing.T) {
	for name, c := range map[string]struct{ known, in, want string }{
		"number":             {"12345678", `{"pin":12345678}`, `{"pin":"[redacted:known]"}`},
		"part of a number":   {"12345678", `[0.123456789]`, `["[redacted:known]"]`},
		"over quotes":        {`pa","ss":"wo`, `{"a":"pa","ss":"wo","b":1}`, `{"a":"[redacted:known]","b":1}`},
		"breaks over quotes": {`pa","ss":[`, `{"a":"pa","ss":["wo"]}`, `{"a":"[redacted:known]","[redacted:known]":["wo"]}`},
		"splits an escape":   {"nabcdefgh", `["x\nabcdefgh"]`, `["x[redacted:known]"]`},
		"ends in an escape":  {`abcdefgh\`, `["abcdefgh\n"]`, `["[redacted:known]n"]`},
		"equal names":        {"abcdefgh", `{"abcdefgh":1,"\u0061bcdefgh.":{"abcdefgh":2},"abcdefg\u0068":3}`, ""},
		"two equal names":    {"abcdefgh", `{"abcdefgh":1,"616263646566` + `6768":2}`, `{"[redacted:known]":1,"[redacted:known]#2":2}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := inspection.New()
			s.Known().Set("k", []byte(c.known))
			if out := checkRedact(t, s, []byte(c.in)); c.want != "" && string(out) != c.want {
				t.Errorf("got %s\nwant %s", out, c.want)
			}
		})
	}
}
