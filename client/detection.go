package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Detection is a rule that fired about something, and what was done.
type Detection struct {
	ID         string    `json:"id"`
	Rule       string    `json:"rule"`
	Version    string    `json:"version"`
	Title      string    `json:"title"`
	Severity   string    `json:"severity"`
	Object     string    `json:"object"` // credential/key_…, agent/NAME
	Agent      string    `json:"agent,omitempty"`
	Credential string    `json:"credential,omitempty"`
	Connection string    `json:"connection,omitempty"`
	Response   string    `json:"response"` // notify, hold, throttle, lock-credential, lock-agent, rotate
	Mode       string    `json:"mode"`     // observe, enforce
	State      string    `json:"state"`    // active, told, observed, failed, lifted, expired
	Seen       string    `json:"seen"`
	Normal     string    `json:"normal,omitempty"`
	Event      string    `json:"event"` // that decided
	Events     []string  `json:"events"`
	Times      int64     `json:"times"`
	Happened   time.Time `json:"happened"`
	Decided    time.Time `json:"decided"`
	Updated    time.Time `json:"updated"`
	Expires    time.Time `json:"expires,omitzero"`
	Lock       string    `json:"lock,omitempty"`
	Contained  float64   `json:"contained_ms,omitempty"` // from the deciding event until the last call was cut
	Cut        int64     `json:"cut,omitempty"`
	Passed     *int64    `json:"passed,omitempty"` // calls that went out between the deciding event and the last cut
	Error      string    `json:"error,omitempty"`
	Ended      time.Time `json:"ended,omitzero"`
	EndedBy    string    `json:"ended_by,omitempty"`
	EndReason  string    `json:"end_reason,omitempty"`
}

// DetectionRule is a rule and how it is used.
type DetectionRule struct {
	ID        string            `json:"id"`
	Version   string            `json:"version"`
	Title     string            `json:"title"`
	Watch     []string          `json:"watch"`
	Key       string            `json:"key"`
	Where     string            `json:"where,omitempty"`
	Measures  map[string]string `json:"measures,omitempty"`
	When      string            `json:"when"`
	Limits    map[string]string `json:"limits,omitempty"`
	Learning  string            `json:"learning,omitempty"`
	Quiet     string            `json:"quiet,omitempty"`
	Severity  string            `json:"severity"`
	Weight    string            `json:"weight,omitempty"`
	Response  string            `json:"response,omitempty"`
	For       string            `json:"for,omitempty"`
	Approvers string            `json:"approvers,omitempty"`
	Rate      string            `json:"rate,omitempty"`
	Seen      string            `json:"seen"`
	Normal    string            `json:"normal,omitempty"`
	Tests     map[string]string `json:"tests,omitempty"`
	Mode      string            `json:"mode"` // observe, enforce, off
	BuiltIn   bool              `json:"built_in"`
}

// DetectionNormal is what is normal of one measure of one agent.
type DetectionNormal struct {
	ID       string    `json:"id"`
	Rule     string    `json:"rule"`
	Measure  string    `json:"measure"`
	Normal   float64   `json:"normal"`
	Known    int       `json:"known,omitempty"` // values that were seen
	Learning time.Time `json:"learning,omitzero"`
}

// DetectionStatus says how detection goes.
type DetectionStatus struct {
	Behind     int64             `json:"behind"`
	ActsSince  time.Time         `json:"acts_since,omitzero"`
	Rules      int               `json:"rules"`
	Enforcing  int               `json:"enforcing"`
	Active     int               `json:"active"`
	Baselines  []DetectionNormal `json:"baselines"`
	Overridden []string          `json:"overridden"`
}

// DetectionFound is what a rule found in a test.
type DetectionFound struct {
	ID     string    `json:"id"`
	Rule   string    `json:"rule"`
	Mode   string    `json:"mode"`
	Object string    `json:"object"`
	Agent  string    `json:"agent,omitempty"`
	At     time.Time `json:"at"`
	Event  string    `json:"event,omitempty"`
	Seen   string    `json:"seen"`
	Normal string    `json:"normal,omitempty"`
	Would  string    `json:"would"`
}

// DetectionCase is what came of a rule's own test case.
type DetectionCase struct {
	ID      string `json:"id"`
	Rule    string `json:"rule"`
	Case    string `json:"case"`
	Passed  bool   `json:"passed"`
	Problem string `json:"problem,omitempty"`
}

// DetectionTest is what came of a test.
type DetectionTest struct {
	Events int              `json:"events"`
	Found  []DetectionFound `json:"found"`
	Cases  []DetectionCase  `json:"cases"`
}

// ProviderUse is what a provider says was used of a model in an hour.
type ProviderUse struct {
	Connection string    `json:"connection"`
	Model      string    `json:"model"`
	Hour       time.Time `json:"hour"`
	Tokens     int64     `json:"tokens"`
}

// ProviderCompared is a provider's account beside the log.
type ProviderCompared struct {
	ID         string    `json:"id"`
	Connection string    `json:"connection"`
	Model      string    `json:"model"`
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
	Provider   int64     `json:"provider"`
	Log        int64     `json:"log"`
	Surplus    int64     `json:"surplus"`
}

// Detections lists detections, the newest first: open ones, or all.
func (c *Client) Detections(ctx context.Context, all bool, agent string, limit int) ([]Detection, error) {
	q := url.Values{}
	if all {
		q.Set("all", "true")
	}
	if agent != "" {
		q.Set("agent", agent)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return get[[]Detection](ctx, c, v1+"/detections", q)
}

// Detection returns one.
func (c *Client) Detection(ctx context.Context, id string) (Detection, error) {
	return get[Detection](ctx, c, v1+"/detections"+segment(id), nil)
}

// LiftDetection ends the response of a detection.
func (c *Client) LiftDetection(ctx context.Context, id string) (Detection, error) {
	return send[Detection](ctx, c, http.MethodPost, v1+"/detections"+segment(id)+"/lift", struct{}{})
}

// DetectionRules lists rules, by name.
func (c *Client) DetectionRules(ctx context.Context) ([]DetectionRule, error) {
	return get[[]DetectionRule](ctx, c, v1+"/detection/rules", nil)
}

// DetectionRule returns one rule.
func (c *Client) DetectionRule(ctx context.Context, name string) (DetectionRule, error) {
	return get[DetectionRule](ctx, c, v1+"/detection/rules"+segment(name), nil)
}

// SetDetectionMode lets a rule act, or only observe; name * means every rule.
func (c *Client) SetDetectionMode(ctx context.Context, name, mode string) ([]DetectionRule, error) {
	return send[[]DetectionRule](ctx, c, http.MethodPut, v1+"/detection/rules"+segment(name)+"/mode", map[string]string{"mode": mode})
}

// DetectionStatus says how detection goes, and what is normal of an agent.
func (c *Client) DetectionStatus(ctx context.Context, agent string) (DetectionStatus, error) {
	q := url.Values{}
	if agent != "" {
		q.Set("agent", agent)
	}
	return get[DetectionStatus](ctx, c, v1+"/detection/status", q)
}

// TestDetection runs the rules over a trace; without one, their own test cases.
func (c *Client) TestDetection(ctx context.Context, rule, trace string) (DetectionTest, error) {
	return send[DetectionTest](ctx, c, http.MethodPost, v1+"/detection/test", map[string]string{"rule": rule, "trace": trace})
}

// Reconcile compares a provider's account of use with the log.
func (c *Client) Reconcile(ctx context.Context, rows []ProviderUse) ([]ProviderCompared, error) {
	return send[[]ProviderCompared](ctx, c, http.MethodPost, v1+"/detection/reconcile", map[string]any{"rows": rows})
}

// RebuildDetection counts the log again from its beginning.
func (c *Client) RebuildDetection(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, v1+"/detection/rebuild", nil, struct{}{}, nil)
}
