package client

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// PostureRow is a predicate with its newest result, as it counts now.
type PostureRow struct {
	ID         string    `json:"id"`
	Version    int       `json:"version"`
	Name       string    `json:"name"`
	Asks       string    `json:"asks"`
	Kind       string    `json:"kind"`   // query, probe, drill
	Limits     string    `json:"limits"` // what it cannot see
	Result     string    `json:"result"` // PASS, FAIL, NO_DATA, NOT_APPLICABLE, MANUAL
	Reason     string    `json:"reason,omitempty"`
	Population int64     `json:"population"`
	Evaluated  int64     `json:"evaluated"`
	Violated   int64     `json:"violated"`
	Collected  time.Time `json:"collected,omitzero"`
	Expires    time.Time `json:"expires,omitzero"`
	Evidence   string    `json:"evidence,omitempty"`
	Event      string    `json:"event,omitempty"` // of the log, with the digest of the evidence
}

// PostureViolation is an object that breaks a check.
type PostureViolation struct {
	Object  string   `json:"object"`
	Message string   `json:"message"`
	Events  []string `json:"events,omitempty"`
}

// PostureGap is something that could not be looked at.
type PostureGap struct {
	Object string `json:"object"`
	Why    string `json:"why"`
}

// PostureCheck is one question of a predicate.
type PostureCheck struct {
	Name        string             `json:"name"`
	Asks        string             `json:"asks"`
	Result      string             `json:"result"`
	Reason      string             `json:"reason,omitempty"`
	Unit        string             `json:"unit"`
	Population  int64              `json:"population"`
	Evaluated   int64              `json:"evaluated"`
	Violated    int64              `json:"violated"`
	Violations  []PostureViolation `json:"violations"`
	Unreachable []PostureGap       `json:"unreachable"`
	Canary      struct {
		What   string `json:"what"`
		Caught bool   `json:"caught"`
	} `json:"canary"`
	Looked string `json:"looked,omitempty"`
}

// PostureSpan is a part of a lane of the log.
type PostureSpan struct {
	Lane int64 `json:"lane"`
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Evidence is the result of a predicate at one time.
type Evidence struct {
	ID         string         `json:"id"`
	Run        string         `json:"run"`
	Predicate  string         `json:"predicate"`
	Version    int            `json:"version"`
	Name       string         `json:"name"`
	Kind       string         `json:"kind"`
	Result     string         `json:"result"`
	Reason     string         `json:"reason,omitempty"`
	Population int64          `json:"population"`
	Evaluated  int64          `json:"evaluated"`
	Violated   int64          `json:"violated"`
	Checks     []PostureCheck `json:"checks"`
	Limits     string         `json:"limits"`
	Since      time.Time      `json:"since"`
	Collected  time.Time      `json:"collected"`
	Expires    time.Time      `json:"expires"`
	Log        []PostureSpan  `json:"log"`
	Event      string         `json:"event,omitempty"`
	Digest     string         `json:"digest,omitempty"`
}

// PostureRun is one computation of evidence.
type PostureRun struct {
	ID       string     `json:"id"`
	By       string     `json:"by"`
	Reason   string     `json:"reason,omitempty"`
	Started  time.Time  `json:"started"`
	Ended    time.Time  `json:"ended"`
	Event    string     `json:"event"`
	Evidence []Evidence `json:"evidence"`
}

// FrameworkCount is how many requirements of a framework have each result.
type FrameworkCount struct {
	ID           string         `json:"id"`
	Title        string         `json:"title"`
	Version      string         `json:"version"`
	Requirements int            `json:"requirements"`
	Results      map[string]int `json:"results"`
}

// Posture is everything at a glance.
type Posture struct {
	Predicates []PostureRow     `json:"predicates"`
	Frameworks []FrameworkCount `json:"frameworks"`
}

// RequirementEvidence is a predicate as evidence for a requirement.
type RequirementEvidence struct {
	PostureRow
	Why string `json:"why"`
}

// Requirement is a requirement of a framework with what is evidence for it.
type Requirement struct {
	Framework string                `json:"framework"`
	ID        string                `json:"id"`
	Title     string                `json:"title"`
	Group     string                `json:"group,omitempty"`
	Coverage  string                `json:"coverage"` // direct, partial, manual
	Shows     string                `json:"shows,omitempty"`
	Withdrawn bool                  `json:"withdrawn,omitempty"`
	MovedTo   []string              `json:"moved_to,omitempty"`
	Result    string                `json:"result"`
	Reason    string                `json:"reason,omitempty"`
	Asked     string                `json:"asked,omitempty"` // the identifier asked for, if it was another
	Note      string                `json:"note,omitempty"`  // how that was read
	See       []string              `json:"see,omitempty"`
	Evidence  []RequirementEvidence `json:"evidence"`
	Shares    map[string]int        `json:"shares,omitempty"` // of the period, percent by result
}

// Framework is a framework with its requirements.
type Framework struct {
	ID           string        `json:"id"`
	Title        string        `json:"title"`
	Version      string        `json:"version"`
	Publisher    string        `json:"publisher"`
	Source       string        `json:"source"`
	Licence      string        `json:"licence"`
	Note         string        `json:"note,omitempty"`
	Days         int           `json:"days"` // of the period of shares
	Requirements []Requirement `json:"requirements"`
}

// PostureLink is a requirement that a predicate is evidence for.
type PostureLink struct {
	Predicate string `json:"predicate"`
	Framework string `json:"framework"`
	ID        string `json:"id"`
	Title     string `json:"title"`
	Why       string `json:"why"`
}

// PostureDetail is a predicate with its newest evidence.
type PostureDetail struct {
	PostureRow
	Newest *Evidence      `json:"newest,omitempty"`
	For    []PostureLink  `json:"for"`
	Shares map[string]int `json:"shares"`
}

// Posture shows the newest result of every predicate.
func (c *Client) Posture(ctx context.Context) (Posture, error) {
	return get[Posture](ctx, c, v1+"/posture", nil)
}

// RunPosture computes evidence now, of all predicates if none is named.
func (c *Client) RunPosture(ctx context.Context, predicates ...string) (PostureRun, error) {
	return send[PostureRun](ctx, c, http.MethodPost, v1+"/posture/run", struct {
		Predicates []string `json:"predicates,omitempty"`
	}{predicates})
}

// Predicate shows a predicate and its newest evidence.
func (c *Client) Predicate(ctx context.Context, id string) (PostureDetail, error) {
	return get[PostureDetail](ctx, c, v1+"/posture/predicates"+segment(id), nil)
}

// EvidenceByID shows one result as it was computed.
func (c *Client) EvidenceByID(ctx context.Context, id string) (Evidence, error) {
	return get[Evidence](ctx, c, v1+"/posture/evidence"+segment(id), nil)
}

// EvidenceBytes returns one result in the form whose SHA-256 the event of its
// run holds: canonical JSON (RFC 8785), without where it is stored.
func (c *Client) EvidenceBytes(ctx context.Context, id string) ([]byte, error) {
	doc, err := get[map[string]jsontext.Value](ctx, c, v1+"/posture/evidence"+segment(id), nil)
	if err != nil {
		return nil, err
	}
	delete(doc, "event")
	delete(doc, "digest")
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	v := jsontext.Value(b)
	err = v.Canonicalize()
	return v, err
}

// PostureSegment is a time during which a predicate had one result.
type PostureSegment struct {
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
	Result     string    `json:"result"`
	Evidence   string    `json:"evidence,omitempty"` // the newest in it; empty: there was none
	Population int64     `json:"population"`
	Evaluated  int64     `json:"evaluated"`
	Violated   int64     `json:"violated"`
}

// PostureTrend is how a predicate went over a period.
type PostureTrend struct {
	Predicate string           `json:"predicate"`
	Name      string           `json:"name"`
	Shares    map[string]int   `json:"shares"`   // percent by result
	Segments  []PostureSegment `json:"segments"` // the whole period, the oldest first
}

// PostureProgress is how far a run is.
type PostureProgress struct {
	Running bool      `json:"running"`
	Run     string    `json:"run,omitempty"`
	By      string    `json:"by,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Asked   []string  `json:"asked"`
	Done    []string  `json:"done"`
	Problem string    `json:"problem,omitempty"` // why it ended without a result
}

// PostureTrends shows how predicates went over the last days (0: 90), all of
// them if none is named.
func (c *Client) PostureTrends(ctx context.Context, predicate string, days int) ([]PostureTrend, error) {
	q := over(days)
	if predicate != "" {
		q.Set("predicate", predicate)
	}
	return get[[]PostureTrend](ctx, c, v1+"/posture/trend", q)
}

func over(days int) url.Values {
	q := url.Values{}
	if days > 0 {
		q.Set("days", strconv.Itoa(days))
	}
	return q
}

// BeginPosture begins to compute evidence and does not wait for it.
func (c *Client) BeginPosture(ctx context.Context, predicates ...string) (PostureProgress, error) {
	return send[PostureProgress](ctx, c, http.MethodPost, v1+"/posture/begin", struct {
		Predicates []string `json:"predicates,omitempty"`
	}{predicates})
}

// PostureProgress shows how far the run under way is, or how the last one ended.
func (c *Client) PostureProgress(ctx context.Context) (PostureProgress, error) {
	return get[PostureProgress](ctx, c, v1+"/posture/progress", nil)
}

// FrameworkPosture shows how the requirements of a framework stand, and stood
// over the last days (0: 90).
func (c *Client) FrameworkPosture(ctx context.Context, id string, days int) (Framework, error) {
	return get[Framework](ctx, c, v1+"/posture/frameworks"+segment(id), over(days))
}

// Requirement shows how a requirement stands, and stood over the last days (0:
// 90), by any of its spellings.
func (c *Client) Requirement(ctx context.Context, id string, days int) (Requirement, error) {
	q := over(days)
	q.Set("id", id)
	return get[Requirement](ctx, c, v1+"/posture/requirement", q)
}

// ExportEvidence returns the newest evidence as one signed bundle. Close it.
func (c *Client) ExportEvidence(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.send(ctx, http.MethodGet, v1+"/evidence/export", nil, nil, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
