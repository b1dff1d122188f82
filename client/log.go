package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Page is a page of events.
type Page struct {
	Events []Event `json:"events"`
	Next   string  `json:"next,omitempty"`   // cursor of the next page; empty on the last
	Behind int64   `json:"behind,omitempty"` // events recorded but not yet searchable
}

// Entry is an event with its place in the log and what stands beside it.
type Entry struct {
	Event    Event     `json:"event"`
	Lane     int64     `json:"lane"`
	SN       int64     `json:"sn"`
	Chain    string    `json:"chain"`  // hex
	Record   string    `json:"record"` // base64: the exact bytes that are hashed
	Payloads []Payload `json:"payloads,omitempty"`
}

// Payload returns the text of the payload called name, "" if there is none.
func (e Entry) Payload(name string) string {
	for _, p := range e.Payloads {
		if p.Name == name {
			return p.Body()
		}
	}
	return ""
}

// Payload is content beside an event.
type Payload struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	Digest   string `json:"digest"`
	Text     string `json:"text,omitempty"`
	Base64   string `json:"base64,omitempty"`
	Cut      bool   `json:"cut,omitempty"`      // only the beginning is stored, or shown
	Erased   bool   `json:"erased,omitempty"`   // the commitment stands
	Withheld bool   `json:"withheld,omitempty"` // the caller's role does not see contents
}

// Body returns what is stored.
func (p Payload) Body() string {
	if p.Base64 == "" {
		return p.Text
	}
	b, err := base64.StdEncoding.DecodeString(p.Base64)
	if err != nil {
		return ""
	}
	return string(b)
}

// Verification is what verifying the log found.
type Verification struct {
	OK       bool         `json:"ok"`
	Events   int64        `json:"events"`
	Payloads int64        `json:"payloads"`
	Erased   int64        `json:"erased"`
	Lanes    int          `json:"lanes"`
	Millis   int64        `json:"millis"`
	Problems []LogProblem `json:"problems,omitempty"` // the first of each lane
}

// LogProblem is a place where the log is not what was written.
type LogProblem struct {
	Lane    int64  `json:"lane"`
	SN      int64  `json:"sn"`
	Event   string `json:"event,omitempty"`
	Message string `json:"message"`
}

// SearchLog finds events. cursor is Next of the page before, or empty; limit 0
// means 100, at most 1000.
func (c *Client) SearchLog(ctx context.Context, query, cursor string, limit int, oldest bool) (Page, error) {
	v := url.Values{}
	for name, value := range map[string]string{"q": query, "cursor": cursor} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if limit > 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	if oldest {
		v.Set("oldest", "true")
	}
	return get[Page](ctx, c, v1+"/log/events", v)
}

// LogEntry returns one event with its payloads and its place in the log. That
// contents were read is recorded.
func (c *Client) LogEntry(ctx context.Context, id string) (Entry, error) {
	return get[Entry](ctx, c, v1+"/log/events"+segment(id), nil)
}

// bare asks for no contents.
var bare = url.Values{"bare": {"true"}}

// BareEntry is LogEntry without contents: nothing is revealed, or recorded.
func (c *Client) BareEntry(ctx context.Context, id string) (Entry, error) {
	return get[Entry](ctx, c, v1+"/log/events"+segment(id), bare)
}

// maxRun is the number of events after which Run stops asking.
const maxRun = 20000

// Run returns a run's events with their payloads, the oldest first. complete
// is false if there are more than 20,000. That contents were read is recorded.
func (c *Client) Run(ctx context.Context, run string) (entries []Entry, complete bool, err error) {
	return c.run(ctx, run, url.Values{})
}

// BareRun is Run without contents: nothing is revealed, or recorded.
func (c *Client) BareRun(ctx context.Context, run string) (entries []Entry, complete bool, err error) {
	return c.run(ctx, run, maps.Clone(bare))
}

func (c *Client) run(ctx context.Context, run string, v url.Values) (entries []Entry, complete bool, err error) {
	for len(entries) < maxRun {
		page, err := get[struct {
			Events []Entry `json:"events"`
			Next   string  `json:"next"`
		}](ctx, c, v1+"/log/runs"+segment(run), v)
		if err != nil {
			return nil, false, err
		}
		entries = append(entries, page.Events...)
		if page.Next == "" {
			return entries, true, nil
		}
		v.Set("cursor", page.Next)
	}
	return entries, false, nil
}

// VerifyLog has the server walk the whole log.
func (c *Client) VerifyLog(ctx context.Context) (Verification, error) {
	return send[Verification](ctx, c, http.MethodPost, v1+"/log/verify", nil)
}

// RebuildLog has the server build the search index again.
func (c *Client) RebuildLog(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, v1+"/log/rebuild", nil, nil, nil)
}

// maxTailLine bounds one event on the wire, in bytes.
const maxTailLine = 4 << 20

// errTail ends a tail that must not be taken up again.
type errTail struct{ error }

func (e errTail) Unwrap() error { return e.error }

// Tail calls fn for the last events that query selects and then for each new
// one, until ctx ends or fn returns an error. When the connection breaks it
// connects again, without missing or repeating events.
func (c *Client) Tail(ctx context.Context, query string, last int, fn func(Event) error) error {
	t := tail{c: c, query: query, last: last, fn: fn}
	for failures := 0; ; failures++ {
		err := t.follow(ctx)
		var final errTail
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &final):
			return final.error
		case t.connected:
			failures, t.connected = 0, false
		case failures == 20:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(min(failures, 4)+1) * time.Second / 2):
		}
	}
}

// tail is a Tail under way.
type tail struct {
	c         *Client
	query     string
	last      int
	fn        func(Event) error
	started   bool   // it has been connected once
	connected bool   // since the last attempt
	seen      string // the last event
}

// follow reads one connection until it ends.
func (t *tail) follow(ctx context.Context) error {
	v := url.Values{}
	if t.query != "" {
		v.Set("q", t.query)
	}
	if !t.started && t.last > 0 {
		v.Set("last", strconv.Itoa(t.last))
	}
	resp, err := t.c.send(ctx, http.MethodGet, v1+"/log/tail", v, nil, http.Header{"Last-Event-ID": {t.seen}})
	var refused *Error
	if err != nil && (!t.started || errors.As(err, &refused) && refused.Status < 500) {
		return errTail{err}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	t.started, t.connected = true, true
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), maxTailLine)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		var ev Event
		if err := json.Unmarshal(data, &ev); err != nil {
			return errTail{fmt.Errorf("following the log: the answer is not what this version expects: %w", err)}
		}
		t.seen = ev.ID
		if err := t.fn(ev); err != nil {
			return errTail{err}
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return errTail{lines.Err()}
	}
	return cmp.Or(lines.Err(), io.ErrUnexpectedEOF)
}

// oneLine makes s fit for a header.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
