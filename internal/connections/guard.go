package connections

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// InspectGuard is the label under which a connection names a guardrail service
// outside, beside what is done about each label.
const InspectGuard = "guard"

// Limits of a guardrail service's time.
const (
	guardUsual = 2 * time.Second
	guardMost  = 30 * time.Second
)

// Guard is a guardrail service outside: what calls and answers hold is shown to
// it, and it says whether that may pass. It is written as its URL and words:
//
//	https://guard.example/check timeout=2s failure=closed on=both
type Guard struct {
	URL     string
	Timeout time.Duration // of one question
	Open    bool          // what cannot be asked about passes; else it does not
	Request bool          // requests are shown
	Answer  bool          // answers are shown: each is held until it may pass
	Whole   bool          // text is shown as it is; else without secrets and personal data
	Private bool          // the service may be at a private address, and without TLS
	Secret  string        // name of the secret that it gets as a bearer token; empty: none
}

// ParseGuard reads a guardrail service as a connection names it.
func ParseGuard(text string) (Guard, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return Guard{}, fmt.Errorf("write its URL first, such as https://guard.example/check timeout=2s failure=closed on=both")
	}
	g := Guard{URL: words[0], Timeout: guardUsual, Request: true, Answer: true}
	for _, w := range words[1:] {
		name, value, _ := strings.Cut(w, "=")
		switch {
		case name == "timeout":
			d, err := time.ParseDuration(value)
			if err != nil || d < 10*time.Millisecond || d > guardMost {
				return g, fmt.Errorf("timeout=%s is not a time between 10ms and %s", clip(value), guardMost)
			}
			g.Timeout = d
		case name == "failure" && (value == "open" || value == "closed"):
			g.Open = value == "open"
		case name == "on" && (value == "request" || value == "answer" || value == "both"):
			g.Request, g.Answer = value != "answer", value != "request"
		case name == "text" && (value == "whole" || value == "redacted"):
			g.Whole = value == "whole"
		case name == "secret" && nameForm.MatchString(value):
			g.Secret = value
		case w == "private":
			g.Private = true
		default:
			return g, fmt.Errorf("%q is none of timeout=TIME, failure=closed|open, on=request|answer|both, text=redacted|whole, secret=NAME, private", clip(w))
		}
	}
	u, err := url.Parse(g.URL)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !g.Private) {
		return g, fmt.Errorf("%q is no URL of a guardrail service: https, or http with the word private; nothing secret in it", clip(g.URL))
	}
	return g, nil
}

// Guarding returns the guardrail service of a connection.
func (c Connection) Guarding() (Guard, bool) {
	text := c.Inspect[InspectGuard]
	if text == "" {
		return Guard{}, false
	}
	g, err := ParseGuard(text)
	if err != nil { // checked when it was written: one that is not understood lets nothing pass
		return Guard{URL: "", Request: true, Answer: true}, true
	}
	return g, true
}
