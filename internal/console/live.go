package console

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/client"
)

// The rhythm of what is sent: calls in bundles, so that a page is calm when
// thousands come; what waits for a person almost at once.
const (
	bundleEvery  = 400 * time.Millisecond
	countAfter   = 100 * time.Millisecond
	aliveEvery   = 15 * time.Second
	mostBundled  = 20
	writeTimeout = 30 * time.Second
)

// waiting is what the title, the icon and a notification say.
type waiting struct {
	Count  int    `json:"count"`
	Newest string `json:"newest,omitzero"` // id of the newest request for this person
	What   string `json:"what,omitzero"`   // its summary
}

// live sends Server-Sent Events to a page: "waiting" with how much waits for
// the person, "changed" when a request for approval does, and "calls", rows of
// the stream, if calls is asked for, of those that q selects.
func (c *Console) live(w http.ResponseWriter, r *http.Request) {
	session := c.session(r)
	v := &visit{Request: r, console: c, API: c.api(r, session)}
	var err error
	if v.Me, err = v.API.Me(r.Context()); session == "" || err != nil {
		http.Error(w, "sign in", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s := &sender{w: w, rc: http.NewResponseController(w)}
	changes, calls := make(chan struct{}, 1), make(chan client.Event, mostBundled)
	ended := make(chan error, 2)
	go func() {
		ended <- v.API.Tail(ctx, "type:call.held,approval.*", 0, func(client.Event) error {
			select {
			case changes <- struct{}{}:
			default: // one is to come already
			}
			return nil
		})
	}()
	if v.Query("calls") != "" {
		go func() { ended <- v.API.Tail(ctx, inStream+" "+v.Query("q"), 0, offer(calls)) }()
	}
	if err := s.waiting(v); err != nil {
		return
	}
	c.forward(ctx, s, v, changes, calls, ended)
}

// offer puts events into calls and drops what is too many.
func offer(calls chan<- client.Event) func(client.Event) error {
	return func(ev client.Event) error {
		select {
		case calls <- ev:
		default:
		}
		return nil
	}
}

// forward sends what comes until the reader, the session or the API goes.
func (c *Console) forward(ctx context.Context, s *sender, v *visit, changes <-chan struct{}, calls <-chan client.Event, ended <-chan error) {
	bundle, alive := time.NewTicker(bundleEvery), time.NewTicker(aliveEvery)
	defer bundle.Stop()
	defer alive.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-ended: //nolint:errcheck // why does not matter: the browser connects again, and is asked who it is
			return
		case <-changes:
			time.Sleep(countAfter) // of one decision several events come
			if err = s.waiting(v); err == nil {
				err = s.send("changed", []byte("approvals"))
			}
		case <-bundle.C:
			if len(calls) > 0 {
				err = s.calls(c, v, calls)
			}
		case <-alive.C:
			err = s.send("", nil)
		}
		if err != nil {
			return
		}
	}
}

// sender writes Server-Sent Events.
type sender struct {
	mu sync.Mutex
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (s *sender) send(event string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	if event == "" {
		b.WriteString(": alive\n")
	} else {
		b.WriteString("event: " + event + "\n")
		for line := range bytes.Lines(data) {
			fmt.Fprintf(&b, "data: %s\n", bytes.TrimRight(line, "\r\n"))
		}
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every writer has one
	if _, err := s.w.Write([]byte(b.String() + "\n")); err != nil {
		return err
	}
	return s.rc.Flush()
}

func (s *sender) waiting(v *visit) error {
	found, err := v.pending()
	if err != nil {
		return err
	}
	var w waiting
	for _, a := range found {
		if !a.Mine {
			continue
		}
		if w.Count++; w.Newest == "" {
			what, _ := cut(a.Summary, 200)
			w.Newest, w.What = a.ID, what
		}
	}
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return s.send("waiting", b)
}

// calls sends the rows of what has come.
func (s *sender) calls(c *Console, v *visit, in <-chan client.Event) error {
	var b bytes.Buffer
	for range len(in) {
		if err := c.templates["now"].ExecuteTemplate(&b, "call", callOf(<-in)); err != nil {
			return err
		}
	}
	return s.send("calls", b.Bytes())
}
