package client

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Export is how a continuous export of the log does.
type Export struct {
	ID          string    `json:"id"`
	Kind        string    `json:"kind"`
	Destination string    `json:"destination"`
	State       string    `json:"state"` // following, failing, blocked
	Behind      int64     `json:"behind"`
	Sent        int64     `json:"sent"`
	Rejected    int64     `json:"rejected,omitzero"`
	Skipped     int64     `json:"skipped,omitzero"`
	LastSent    time.Time `json:"last_sent,omitzero"`
	Since       time.Time `json:"failing_since,omitzero"`
	Error       string    `json:"error,omitempty"`
	BlockedAt   string    `json:"blocked_at,omitempty"` // an event, or everything
	Help        string    `json:"help,omitempty"`       // what to do
}

// Exports lists the continuous exports of the log.
func (c *Client) Exports(ctx context.Context) ([]Export, error) {
	var out struct {
		Targets []Export `json:"targets"`
	}
	err := c.do(ctx, http.MethodGet, v1+"/log/exports", nil, nil, &out)
	return out.Targets, err
}

// ResumeExport has an export that stopped try again.
func (c *Client) ResumeExport(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodPost, v1+"/log/exports"+segment(name)+"/resume", nil, nil, nil)
}

// SkipExport has an export go on without the event that it stopped at.
func (c *Client) SkipExport(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodPost, v1+"/log/exports"+segment(name)+"/skip", nil, nil, nil)
}

// EventsQuery selects what DownloadEvents writes.
type EventsQuery struct {
	Format       string // jsonl or ocsf
	Since, Until time.Time
	After        string // begin after this event
	Payloads     bool   // with the bodies beside events
}

// ErrCutOff reports a download that ended before its end: continue after the
// last event that arrived.
var ErrCutOff = errors.New("the export was cut off before its end")

// complete is the trailer of a download that reached its end.
const complete = "X-Countersign-Complete"

// maxLine bounds one event of a download, in bytes.
const maxLine = 16 << 20

// DownloadEvents calls fn with each line, without its line feed, oldest first.
// Only whole lines are passed on. ErrCutOff if there would have been more.
func (c *Client) DownloadEvents(ctx context.Context, q EventsQuery, fn func(line []byte) error) error {
	v := url.Values{}
	for name, value := range map[string]string{"format": q.Format, "since": stamp(q.Since), "until": stamp(q.Until), "after": q.After} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Payloads {
		v.Set("payloads", "true")
	}
	resp, err := c.send(ctx, http.MethodGet, v1+"/log/export/events", v, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r := bufio.NewReaderSize(io.Reader(resp.Body), 64<<10)
	for {
		line, err := readLine(r)
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0 && resp.Trailer.Get(complete) == "true":
			return nil
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, bufio.ErrTooLong):
			return err
		case err != nil:
			return ErrCutOff
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}

// readLine returns a line without its line feed; with an error if it has none.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, err
		case len(line) > maxLine:
			return nil, bufio.ErrTooLong
		}
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
