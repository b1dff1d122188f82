package llm_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/test/line"
)

var eventID = regexp.MustCompile(`evt_[0-9a-z]{26}`)

// shape is everything that an agent can see of an answer, without the event's
// identifier and the time.
func shape(a answer) string {
	h := a.header.Clone()
	h.Del("Date")
	h.Set("X-Countersign-Event", eventID.ReplaceAllString(h.Get("X-Countersign-Event"), "evt"))
	var b strings.Builder
	_ = h.Write(&b)
	return b.String() + "\n" + eventID.ReplaceAllString(a.body, "evt")
}

// An agent cannot find out which connections exist beside its own.
func TestAHiddenConnectionLooksLikeNone(t *testing.T) {
	l, up := small(t, line.Options{})
	l.Policies(`permit (principal, action in Action::"openai", resource); permit (principal, action, resource) when { principal.stage == "nowhere" };
forbid (principal, action in Action::"anthropic", resource);`)
	const good = `{"model":"m","max_tokens":5,"messages":[]}`
	for name, c := range map[string]struct {
		method, path, body string
		header             []string
	}{
		"a call":            {"POST", "/v1/messages", good, nil},
		"of Anthropic's":    {"POST", "/v1/messages", good, []string{"Anthropic-Version", "2023-06-01"}},
		"of OpenAI's":       {"POST", "/v1/chat/completions", good, nil},
		"the list":          {"GET", "/v1/models", "", nil},
		"garbage":           {"POST", "/v1/messages", "hello", nil},
		"another type":      {"POST", "/v1/messages", good, []string{"Content-Type", "text/plain"}},
		"an unknown path":   {"POST", "/v1/files", good, nil},
		"an unknown method": {"PUT", "/v1/messages", good, nil},
		"a bad query":       {"POST", "/v1/messages?a=%zz", good, nil},
		"nothing":           {"GET", "", "", nil},
	} {
		hidden := do(t, l, c.method, "/llm/anthropic"+c.path, c.body, c.header...)
		unknown := do(t, l, c.method, "/llm/nobody"+c.path, c.body, c.header...)
		if hidden.status != 404 || unknown.status != 404 || shape(hidden) != shape(unknown) {
			t.Errorf("%s: hidden\n%d %s\nunknown\n%d %s", name, hidden.status, shape(hidden), unknown.status, shape(unknown))
		}
	}
	if n := len(up.Requests()); n != 0 {
		t.Errorf("%d requests went out", n)
	}
	told := 0
	for _, r := range l.Events(20, audit.CallRefused) {
		if r.Event.Connection == "anthropic" && strings.Contains(string(r.Event.Detail), "nothing allows this agent") {
			told++
		}
	}
	if told != 10 {
		t.Errorf("the log tells %d times that the connection was there", told)
	}
}
