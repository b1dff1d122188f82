package client

import (
	"context"
	"net/url"
	"strconv"
	"time"
)

// Minute is what was decided about calls in one minute. A held call that is
// made after all is held in one minute and allowed in another.
type Minute struct {
	At      time.Time `json:"at"` // the minute's beginning
	Allowed int64     `json:"allowed"`
	Denied  int64     `json:"denied"`  // by policy
	Refused int64     `json:"refused"` // not understood, unknown or over a limit
	Held    int64     `json:"held"`
	Failed  int64     `json:"failed"`       // ended in this minute, failed or broken upstream
	Added   int64     `json:"added_micros"` // median time that deciding added to a call, exact to 9 %
}

// Calls is all that was decided.
func (m Minute) Calls() int64 { return m.Allowed + m.Denied + m.Refused + m.Held }

// Rate is calls by the minute, the oldest first.
type Rate struct {
	Minutes []Minute `json:"minutes"`
	Total   Minute   `json:"total"`            // of the whole span
	Behind  int64    `json:"behind,omitempty"` // events recorded but not yet counted
}

// Rate counts calls of the last minutes, exactly; 0: 60, at most 1440.
func (c *Client) Rate(ctx context.Context, minutes int) (Rate, error) {
	v := url.Values{}
	if minutes > 0 {
		v.Set("minutes", strconv.Itoa(minutes))
	}
	return get[Rate](ctx, c, v1+"/log/rate", v)
}

// RunSummary is a run as its events count.
type RunSummary struct {
	ID      string    `json:"id"`
	Agent   string    `json:"agent"`
	Owner   string    `json:"owner,omitempty"`
	Stage   string    `json:"stage,omitempty"`
	First   time.Time `json:"first"` // its first event
	Last    time.Time `json:"last"`  // its last event
	Calls   int64     `json:"calls"` // allowed, denied, refused and held
	Refused int64     `json:"refused"`
	Held    int64     `json:"held"`
	Failed  int64     `json:"failed"`
	Labels  []string  `json:"labels,omitempty"`
	Ended   bool      `json:"ended,omitempty"` // somebody ended it
}

// RunQuery narrows and orders a list of runs. Empty fields select everything.
type RunQuery struct {
	Agent, Label string
	With         string // "refused", "held" or "failed": only runs with such calls
	Text         string // words that are part of the id, the agent, the owner, the stage or a label
	Sort         string // "last", the default, "first" or "calls"
	Rising       bool   // the smallest first
	Cursor       string // Next of the page before
	Limit        int    // 0: 100, at most 1000
}

// RunPage is a page of runs.
type RunPage struct {
	Runs   []RunSummary `json:"runs"`
	Next   string       `json:"next,omitempty"`   // cursor of the next page; empty on the last
	Behind int64        `json:"behind,omitempty"` // events recorded but not yet counted
}

// Runs lists runs, by default those first that called last.
func (c *Client) Runs(ctx context.Context, q RunQuery) (RunPage, error) {
	v := url.Values{}
	for name, value := range map[string]string{"agent": q.Agent, "label": q.Label, "with": q.With, "text": q.Text, "sort": q.Sort, "cursor": q.Cursor} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Rising {
		v.Set("rising", "true")
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return get[RunPage](ctx, c, v1+"/log/runs", v)
}
