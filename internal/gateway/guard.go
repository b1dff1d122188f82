package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json/v2"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/policy"
)

// Limits of what a guardrail service is shown and says, in bytes.
const (
	maxGuarded    = 256 << 10
	maxGuardSays  = 16 << 10
	maxGuardNames = 8
)

// CodeGuarded is the code of what a guardrail service does not let pass, or of
// what it could not be asked about.
const CodeGuarded = "guardrail_blocked"

// guardFact is what a guardrail service said, as events tell it: nothing of it is
// the service's own text but the names of labels.
type guardFact struct {
	On      string   `json:"on"`               // request or answer
	Verdict string   `json:"verdict,omitzero"` // allow or block; empty: it said nothing
	Labels  []string `json:"labels,omitempty"` // as it named them
	Failed  string   `json:"failed,omitzero"`  // why it said nothing
	Passed  bool     `json:"passed"`           // what was done
	Micros  int64    `json:"micros"`           // how long it took
}

var guardName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// guards asks guardrail services.
type guards struct {
	public, private *http.Client

	mu     sync.Mutex
	passes map[string]pass // by connection and secret
}

func newGuards() *guards {
	of := func(private bool) *http.Client {
		return &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				Proxy: nil, DialContext: guarded(private), TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: dialTimeout, ForceAttemptHTTP2: true,
				DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: idleConnExpiry, MaxResponseHeaderBytes: 64 << 10,
			},
		}
	}
	return &guards{public: of(false), private: of(true), passes: map[string]pass{}}
}

func (s *guards) close() {
	s.public.CloseIdleConnections()
	s.private.CloseIdleConnections()
}

// guardQuestion is what a guardrail service is shown.
type guardQuestion struct {
	Call       string `json:"call"`
	Agent      string `json:"agent"`
	Connection string `json:"connection"`
	Tool       string `json:"tool"`
	On         string `json:"on"`
	Text       string `json:"text"`
}

// guard asks the guardrail service of a call's connection about what a request or
// an answer holds.
func (g *Gateway) guard(ctx context.Context, call *Call, s connections.Guard, on string, text []byte) guardFact {
	began := time.Now()
	f := guardFact{On: on}
	says, err := g.asked(ctx, call, s, on, text)
	f.Micros = time.Since(began).Microseconds()
	if err != nil {
		f.Failed, f.Passed = err.Error(), s.Open
		g.o.Logger.Warn("a guardrail service said nothing", "connection", call.Connection.Name, "call", call.ID, "why", f.Failed, "passed", f.Passed)
	} else {
		f.Verdict, f.Labels, f.Passed = says.Verdict, says.Labels, says.Verdict == "allow"
	}
	call.guarded = append(call.guarded, f)
	return f
}

type guardAnswer struct {
	Verdict string   `json:"verdict"`
	Labels  []string `json:"labels"`
}

// Why a guardrail service said nothing.
var (
	errGuardLong    = errors.New("the content is too long for it")
	errGuardTime    = errors.New("it did not answer in time")
	errGuardAway    = errors.New("it cannot be reached")
	errGuardRefuses = errors.New("it answered with an error")
	errGuardAnswer  = errors.New("its answer is not understood")
	errGuardOpaque  = errors.New("the content is encoded")
	errGuardUnset   = errors.New("its setting is not understood")
	errGuardSecret  = errors.New("its credential cannot be used")
)

func (g *Gateway) asked(ctx context.Context, call *Call, s connections.Guard, on string, text []byte) (a guardAnswer, err error) {
	switch {
	case s.URL == "":
		return a, errGuardUnset
	case len(text) > maxGuarded:
		return a, errGuardLong
	}
	if !s.Whole && g.o.Scanner != nil {
		text = g.o.Scanner.Replace(text, inspection.Secrets|inspection.Personal, nil)
	}
	body, err := json.Marshal(guardQuestion{call.ID, call.Who.Agent.Name, call.Connection.Name, call.Tool.Name, on, strings.ToValidUTF8(string(text), "\uFFFD")})
	if err != nil {
		return a, errGuardAnswer
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return a, errGuardUnset
	}
	req.Header.Set("Content-Type", "application/json")
	use, err := g.guardCredential(ctx, call, s, req)
	if err != nil {
		g.o.Logger.Warn("the credential for a guardrail service cannot be used", "connection", call.Connection.Name, "secret", s.Secret, "error", err)
		return a, errGuardSecret
	}
	client := g.guards.public
	if s.Private {
		client = g.guards.private
	}
	resp, err := client.Do(req)
	if err != nil {
		return a, inTime(ctx, errGuardAway)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized && use.Secret != "" {
		g.o.Injector.Rejected(use)
	}
	if resp.StatusCode != http.StatusOK {
		return a, errGuardRefuses
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxGuardSays+1))
	if err != nil {
		return a, inTime(ctx, errGuardAway)
	}
	if len(b) > maxGuardSays || json.Unmarshal(b, &a) != nil || a.Verdict != "allow" && a.Verdict != "block" || len(a.Labels) > maxGuardNames {
		return guardAnswer{}, errGuardAnswer
	}
	for _, l := range a.Labels {
		if !guardName.MatchString(l) {
			return guardAnswer{}, errGuardAnswer
		}
	}
	return a, nil
}

func inTime(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errGuardTime
	}
	return err
}

// guardLabels are the labels that guardrail services gave, for events and policy.
func (c *Call) guardLabels() []string {
	var out []string
	for _, f := range c.guarded {
		for _, l := range f.Labels {
			out = append(out, InspectedBy+l)
		}
	}
	return out
}

// InspectedBy begins the labels that a guardrail service gives.
const InspectedBy = connections.InspectGuard + ":"

// guardRequest shows a request to the guardrail service of its connection.
func (g *Gateway) guardRequest(ctx context.Context, call *Call) {
	s, ok := call.Connection.Guarding()
	if !ok || !s.Request || call.Who.Agent.Name == "" || call.Tool.Protocol() {
		return
	}
	if call.Request.Stream != nil {
		f := guardFact{On: "request", Failed: errGuardLong.Error(), Passed: s.Open}
		call.guarded = append(call.guarded, f)
		return
	}
	g.guard(ctx, call, s, "request", guardedText(call))
}

// guardedText is what of a request is shown: of an API's its address, too, and of
// any that has no body.
func guardedText(call *Call) []byte {
	up := call.Request
	if call.Connection.Kind != connections.HTTP && len(up.Body) > 0 {
		return up.Body
	}
	address := up.Path
	if up.Query != "" {
		address += "?" + up.Query
	}
	if plain, err := url.QueryUnescape(up.Query); err == nil && plain != up.Query {
		address += "\n" + plain // as the API reads it
	}
	if len(up.Body) == 0 {
		return []byte(address)
	}
	return slices.Concat([]byte(address), []byte("\n\n"), up.Body)
}

// guardSaw makes the labels that a guardrail service gave known to the run.
func (g *Gateway) guardSaw(call *Call) {
	labels := call.guardLabels()
	if len(labels) == 0 || !g.watched(call) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	if err := each(call, func(name string) error { return g.o.Flow.Labels(ctx, name, labels) }); err != nil {
		g.o.Logger.Warn("what a guardrail service said is known to this call alone", "call", call.ID, "error", err)
	}
}

// guardedVerdict denies what a guardrail service does not let pass.
func guardedVerdict(call *Call, v verdict) verdict {
	if v.effect == policy.Deny {
		return v
	}
	for _, f := range call.guarded {
		if f.Passed {
			continue
		}
		v.effect, v.code, v.holds, v.advice = policy.Deny, CodeGuarded, nil, nil
		v.reason = "the guardrail service of " + call.Connection.Name + " does not let this pass"
		if f.Failed != "" {
			v.reason = "the guardrail service of " + call.Connection.Name + " could not be asked, and nothing passes without it: " + f.Failed
		}
		v.record.Effect, v.record.Reason = policy.Deny.String(), v.reason
	}
	return v
}

// guardAnswered shows an answer to the guardrail service of its connection before
// anything of it passes.
func (g *Gateway) guardAnswered(call *Call, resp *http.Response) error {
	s, ok := call.Connection.Guarding()
	if !ok || !s.Answer || call.Who.Agent.Name == "" || call.Tool.Protocol() || resp.StatusCode == http.StatusSwitchingProtocols || call.Request.Method == http.MethodHead {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxGuarded+1))
	if err != nil { // it broke off: what came is no answer, and nobody looked at it
		resp.Body = &behind{Reader: failing{err}, Closer: resp.Body}
		return nil
	}
	resp.Body = &behind{Reader: io.MultiReader(bytes.NewReader(b), resp.Body), Closer: resp.Body}
	var f guardFact
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		f = guardFact{On: "answer", Failed: errGuardOpaque.Error(), Passed: s.Open}
		call.guarded = append(call.guarded, f)
	} else {
		f = g.guard(resp.Request.Context(), call, s, "answer", b)
	}
	g.guardSaw(call)
	if !f.Passed {
		return ErrGuarded.Say("the guardrail service of %s does not let the answer pass", call.Connection.Name)
	}
	return nil
}

// guardedAnswers are the facts about the answer.
func (c *Call) guardedAnswers() []guardFact {
	var out []guardFact
	for _, f := range c.guarded {
		if f.On == "answer" {
			out = append(out, f)
		}
	}
	return out
}

// lookedAt puts inspection and the connection's guardrail service between the
// upstream's answer and everything that reads it.
func (g *Gateway) lookedAt(call *Call, resp *http.Response) error {
	if err := g.inspectAnswer(call, resp); err != nil {
		return err
	}
	return g.guardAnswered(call, resp)
}
