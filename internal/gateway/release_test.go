package gateway_test

import (
	"context"
	"encoding/json/jsontext"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

// bound is a release that binds every call until it is rolled back.
type bound struct{ rolled atomic.Bool }

func (*bound) Check(*releases.Question) (releases.Bound, error) { return releases.Bound{}, nil }
func (*bound) Shows(string, string, string) bool                { return true }
func (b *bound) Stands(agent string, _ releases.Bound) error {
	if b.rolled.Load() {
		return releases.ErrRolled.Say("the release of %s was rolled back", agent)
	}
	return nil
}

// A rollback cuts the calls in flight that its release bound. An effect that was
// sent is not cut: nothing would be taken back, and nobody would see how it ended.
func TestARollbackCutsCallsInFlight(t *testing.T) {
	release := &bound{}
	r := &rig{Line: line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), line.Options{Releases: release}), up: upstream.Start(t, upstream.Endless)}
	r.conn = r.Connect("openai", connections.OpenAI, r.up.URL)
	r.tool, _ = r.Connections.Tool("openai", "chat.completions")
	forge := r.Register(connections.Connection{Name: "forge", Kind: connections.HTTP, Dialect: connections.Git, URL: r.up.URL, Owner: "pat", Auth: connections.AuthNone, AllowPrivate: true})
	push, _ := r.Connections.Tool("forge", connections.GitPush)
	r.Policies(line.AllowAll)

	stream, refused := r.serve(context.Background(), nil)
	if refused != nil {
		t.Fatal(refused)
	}
	answer := make(chan struct{})
	r.up.Answer(func(w http.ResponseWriter, _ *http.Request) {
		<-answer
		_, _ = io.WriteString(w, `{"paid":true}`)
	})
	arrived := make(chan *gateway.Answer, 1)
	go func() {
		a, refused := r.serve(context.Background(), func(c *gateway.Call) {
			c.Connection, c.Tool, c.Args = forge, push, jsontext.Value(`{"repository":"r","step":"push"}`)
		})
		if refused != nil {
			t.Errorf("an effect that was sent was cut: %v", refused)
		}
		arrived <- a
	}()
	r.Events(2, audit.CallIntent)
	for range 2 { // the stream's request, and then the effect's
		r.up.Arrived(t)
	}

	release.rolled.Store(true)
	r.Gateway.Recheck()
	if b, err := io.ReadAll(stream.Body); err == nil || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("the stream ended with %v after %d bytes", err, len(b))
	}
	stream.Body.Close()
	if _, refused := r.serve(context.Background(), nil); refused == nil || refused.Code != releases.ErrRolled.Code || refused.Sent {
		t.Errorf("decided before and not sent: %+v", refused)
	}
	close(answer)
	if a := <-arrived; a != nil && drain(t, a) != `{"paid":true}` {
		t.Error("the effect's answer did not arrive whole")
	}
	status := map[string]int{}
	for _, e := range r.Events(3, audit.CallOutcome) {
		status[e.Event.Outcome.Status]++
		if e.Event.Outcome.Status == audit.Cancelled && !strings.Contains(e.Event.Outcome.Error, "rolled back") {
			t.Errorf("the log does not say why: %s", e.Raw)
		}
	}
	if status[audit.Cancelled] != 2 || status[audit.Succeeded] != 1 {
		t.Errorf("%v", status)
	}
}
