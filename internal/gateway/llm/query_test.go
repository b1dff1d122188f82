package llm_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/test/line"
)

const beta = `
@id("all") permit (principal, action, resource);
@id("no-beta") @advice("beta features are not reviewed")
forbid (principal, action in [Action::"anthropic/messages", Action::"anthropic/models"], resource)
when { context.args has query && context.args.query.contains("beta=true") };`

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// What stands in the URL is part of what is decided, recorded and digested.
func TestTheQueryIsDecidedRecordedAndDigested(t *testing.T) {
	l, up := small(t, line.Options{})
	l.Policies(beta)
	const path, body = "/llm/anthropic/v1/messages", `{"model":"m","max_tokens":5,"messages":[]}`
	if got := do(t, l, "POST", path+"?%62eta=tru%65", body); got.status != 403 || got.kind != "permission_error" || !strings.Contains(got.body, "not reviewed") {
		t.Errorf("a forbidden parameter, escaped: %d %s", got.status, got.body)
	}
	if got := do(t, l, "GET", "/llm/anthropic/v1/models/m?beta=true", ""); got.status != 403 {
		t.Errorf("a forbidden parameter of a question: %d %s", got.status, got.body)
	}
	if n := len(up.Requests()); n != 0 {
		t.Fatalf("%d requests went out", n)
	}
	denied := l.Events(2, audit.CallDenied)[0]
	if args := string(denied.Payloads["arguments"]); !strings.Contains(args, `"query":["beta=true"]`) {
		t.Errorf("recorded as %s", args)
	}

	for _, query := range []string{"", "?beta=false&trace=a%20b", "?trace=a%20b&beta=false"} {
		if got := do(t, l, "POST", path+query, body); got.status != 200 {
			t.Fatalf("%s: %d %s", query, got.status, got.body)
		}
	}
	intents := l.Events(3, audit.CallIntent)
	for i, want := range []string{hexSum(body), hexSum("POST /v1/messages?beta=false&trace=a%20b\n" + body), hexSum("POST /v1/messages?trace=a%20b&beta=false\n" + body)} {
		if got := intents[i].Event.Digest; got != want {
			t.Errorf("call %d: digest %s, want %s", i, got, want)
		}
	}
	if args := string(intents[1].Payloads["arguments"]); !strings.Contains(args, `"query":["beta=false","trace=a b"]`) {
		t.Errorf("recorded as %s", args)
	}
	if q := up.Requests()[1].Query; q != "beta=false&trace=a%20b" {
		t.Errorf("forwarded %q", q)
	}
}

func TestAQueryThatReadersCouldReadInTwoWaysIsRefused(t *testing.T) {
	l, up := small(t, line.Options{})
	for name, query := range map[string]string{
		"semicolon": "a=1;b=2", "bad escape": "a=%zz", "no name": "=1", "control character": "a=%00", "line break": "a=%0d%0aX:1",
		"invalid UTF-8": "a=%ff", "too long": "a=" + strings.Repeat("x", 5000), "too many": strings.Repeat("a=1&", 64) + "a=1",
		"the agent's key": "key=" + l.Key, "the agent's key, escaped": fmt.Sprintf("key=%%%02x%s", l.Key[0], l.Key[1:]),
	} {
		t.Run(name, func(t *testing.T) {
			got := do(t, l, "POST", "/llm/openai/v1/chat/completions?"+query, `{"model":"m","messages":[]}`)
			if got.status != 400 || got.code != "bad_query" {
				t.Errorf("%d %s", got.status, got.body)
			}
			if strings.Contains(got.body, l.Key) {
				t.Error("the answer repeats the key")
			}
		})
	}
	if n := len(up.Requests()); n != 0 {
		t.Errorf("%d requests went out", n)
	}
	if got := do(t, l, "POST", "/llm/openai/v1/chat/completions?&a=1&", `{"model":"m","messages":[]}`); got.status != 200 {
		t.Errorf("empty parts mean nothing to anyone: %d %s", got.status, got.body)
	}
	for _, r := range l.Events(10, audit.CallRefused) {
		if !strings.Contains(string(r.Event.Detail), "bad_query") || strings.Contains(string(r.Raw), l.Key) {
			t.Errorf("recorded as %s", r.Event.Detail)
		}
	}
}
