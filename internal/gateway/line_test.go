package gateway_test

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// rig is a line with one connection, to whose tool calls are made without a
// wire in front.
type rig struct {
	*line.Line
	up   *upstream.Server
	conn connections.Connection
	tool connections.Tool
}

func newRig(t *testing.T, db *storage.DB) *rig {
	t.Helper()
	r := &rig{Line: line.Start(t, db, line.Options{}), up: upstream.Start(t, upstream.JSON(200, `{}`))}
	r.conn = r.Connect("openai", connections.OpenAI, r.up.URL)
	r.tool, _ = r.Connections.Tool("openai", "chat.completions")
	r.Policies(line.AllowAll)
	return r
}

// serve makes a call that change may change.
func (r *rig) serve(ctx context.Context, change func(*gateway.Call)) (*gateway.Answer, *gateway.Refusal) {
	answer, err := r.Gateway.Serve(ctx, gateway.Incoming{
		Front: "test", Credential: r.Key, Remote: "127.0.0.1:1", Parse: func(context.Context, identity.Caller) (*gateway.Call, error) {
			call := &gateway.Call{
				Connection: r.conn, Tool: r.tool, Args: jsontext.Value(`{"model":"m","stream":false}`),
				Request: &gateway.Upstream{Method: "POST", Path: "/v1/chat/completions", Header: http.Header{}, Body: []byte(`{"model":"m"}`)},
			}
			if change != nil {
				change(call)
			}
			return call, nil
		},
	})
	if err != nil {
		return nil, gateway.Refuse(err)
	}
	return answer, nil
}

func drain(t *testing.T, a *gateway.Answer) string {
	t.Helper()
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestTheWayOfACall(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := newRig(t, db)
		answer, refusal := r.serve(t.Context(), nil)
		if refusal != nil {
			t.Fatal(refusal)
		}
		if drain(t, answer) != `{}` || answer.Status != 200 || answer.Call == "" || answer.Event == "" || answer.Run == "" {
			t.Errorf("answer %+v", answer)
		}
		intent, outcome := r.Events(1, audit.CallIntent)[0], r.Events(1, audit.CallOutcome)[0]
		if intent.Event.ID != answer.Event || intent.Event.Call != answer.Call || outcome.Event.Call != answer.Call || outcome.Event.Run != answer.Run {
			t.Errorf("the events do not belong to the call: %s %s", intent.Raw, outcome.Raw)
		}
		if got := r.up.Requests()[0].Header.Get("X-Countersign-Call"); got != answer.Call {
			t.Errorf("the upstream saw call %q", got)
		}
	})
}

func TestEveryIntentHasItsOutcome(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	for i, c := range []struct {
		name   string
		call   func(*gateway.Call)
		use    func(*testing.T, *gateway.Answer)
		code   string // of the refusal
		status string // of the outcome
	}{
		{"read to the end", nil, func(t *testing.T, a *gateway.Answer) { drain(t, a) }, "", audit.Succeeded},
		{"closed unread, once", nil, func(_ *testing.T, a *gateway.Answer) { a.Body.Close() }, "", audit.Cancelled},
		{"closed unread", nil, func(_ *testing.T, a *gateway.Answer) { a.Body.Close(); a.Body.Close() }, "", audit.Cancelled},
		{"closed at its announced end", nil, func(t *testing.T, a *gateway.Answer) {
			if _, err := io.ReadFull(a.Body, make([]byte, 2)); err != nil {
				t.Error(err)
			}
			a.Body.Close()
		}, "", audit.Succeeded},
		{"an observer that panics at the beginning", func(c *gateway.Call) { c.Observer = panicky{begin: true} }, nil, "internal", audit.Broken},
		{"an observer that panics in between", func(c *gateway.Call) { c.Observer = panicky{chunk: true} }, func(t *testing.T, a *gateway.Answer) {
			defer a.Body.Close()
			if b, err := io.ReadAll(a.Body); err == nil || len(b) > 0 {
				t.Errorf("%q passed unseen", b)
			}
		}, "", audit.Broken},
		{"an observer that panics at the end", func(c *gateway.Call) { c.Observer = panicky{done: true} }, func(t *testing.T, a *gateway.Answer) { drain(t, a) }, "", audit.Succeeded},
		{"a rewrite that panics", func(c *gateway.Call) { c.Rewrite = func(*http.Response) error { panic("rewrite") } }, nil, "internal", audit.Broken},
		{"a rewrite that fails", func(c *gateway.Call) { c.Rewrite = func(*http.Response) error { return errors.New("not a list") } }, nil, "upstream_answer", audit.Broken},
		{"a path that leaves the connection", func(c *gateway.Call) { c.Request.Path = "/../admin" }, nil, "bad_connection", audit.Broken},
		{"a secret for another host", func(c *gateway.Call) {
			c.Connection.URL = strings.Replace(c.Connection.URL, "127.0.0.1", "localhost", 1)
		}, nil, "secret_unavailable", audit.Broken},
		{"a secret of another connection", func(c *gateway.Call) { c.Connection.Secret = "other" }, nil, "secret_unavailable", audit.Broken},
		{"a command without a transport", func(c *gateway.Call) { c.Connection.Command = []string{"x"} }, nil, "no_transport", audit.Broken},
		{"plain HTTP to who knows where", func(c *gateway.Call) { c.Connection.AllowPrivate = false }, nil, "bad_connection", audit.Broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, refusal := r.serve(t.Context(), c.call)
			if (refusal != nil) != (c.code != "") || (refusal != nil && refusal.Code != c.code) {
				t.Fatalf("refusal %+v, want %q", refusal, c.code)
			}
			if answer != nil {
				c.use(t, answer)
			}
			r.Events(i+1, audit.CallIntent)
			if o := r.Events(i+1, audit.CallOutcome)[i].Event.Outcome; o.Status != c.status {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

type panicky struct{ begin, chunk, done bool }

func (p panicky) Begin(int, http.Header) { p.when(p.begin) }
func (p panicky) Chunk([]byte)           { p.when(p.chunk) }
func (p panicky) Done(error) gateway.Seen {
	p.when(p.done)
	return gateway.Seen{}
}

func (p panicky) when(now bool) {
	if now {
		panic("observer")
	}
}

func TestAToolThatNobodyAcceptedIsRefused(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	for status, code := range map[string]string{
		connections.StatusDrifted: gateway.CodeDrifted, connections.StatusNew: gateway.CodeUnpinned, connections.StatusGone: gateway.CodeUnpinned, "": gateway.CodeUnpinned,
	} {
		_, refusal := r.serve(t.Context(), func(c *gateway.Call) { c.Tool.Status = status })
		if refusal == nil || refusal.Code != code || !refusal.Denied() || refusal.Event == "" {
			t.Errorf("%q: %+v", status, refusal)
		}
	}
	for _, e := range r.Events(4, audit.CallDenied) {
		if code := e.Event.Decision.Code; code != gateway.CodeDrifted && code != gateway.CodeUnpinned {
			t.Errorf("recorded with the code %q", code)
		}
	}
	r.Events(0, audit.CallIntent)
	if len(r.up.Requests()) != 0 {
		t.Error("the upstream was called")
	}
}

func TestReachingOutIsRecordedInAPersonsName(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	by := audit.Person("usr_1", "pat")
	answer, err := r.Gateway.Reach(t.Context(), by, "first look", &gateway.Call{
		Connection: r.conn, Tool: r.tool, Request: &gateway.Upstream{Method: "GET", Path: "/v1/models", Header: http.Header{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	drain(t, answer)
	ev := r.Events(1, audit.UpstreamUsed)[0].Event
	if ev.Actor != by || ev.Reason != "first look" || ev.Call != answer.Call {
		t.Errorf("recorded %+v", ev)
	}
	r.Events(1, audit.CallIntent)
	r.Events(1, audit.CallOutcome)
	if got := r.up.Requests()[0].Header.Get("Authorization"); got != "Bearer "+line.Secret {
		t.Error("the secret was not injected")
	}
}

func TestARequestIsNeverRepeatedSilently(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	warm, refusal := r.serve(t.Context(), nil)
	if refusal != nil {
		t.Fatal(refusal)
	}
	drain(t, warm)
	// The connection is warm; the upstream takes the request and drops it.
	r.up.Answer(upstream.Reset)
	_, refusal = r.serve(t.Context(), func(c *gateway.Call) { c.Request.Header.Set("Idempotency-Key", "k-1") })
	if refusal == nil || !refusal.Sent {
		t.Errorf("refusal %+v", refusal)
	}
	if n := len(r.up.Requests()); n != 2 {
		t.Errorf("the upstream got %d requests, want the first and one attempt", n)
	}
}

// A call that was refused for a credential which was replaced meanwhile is made
// once more with the new one, and the outcome says so. Without another
// credential it is not.
func TestARefusedCredentialIsReplacedOnce(t *testing.T) {
	const newer = "sk-upstream-the-newer-one-5f2c"
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	refuse := upstream.JSON(401, `{"error":"no"}`)
	r.up.Answer(refuse)
	if _, refusal := r.serve(t.Context(), nil); refusal == nil || len(r.up.Requests()) != 1 {
		t.Fatalf("%+v after %d requests with the same credential", refusal, len(r.up.Requests()))
	}
	r.up.Answer(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") == "Bearer "+newer {
			upstream.JSON(200, `{"was":"`+newer+` and `+line.Secret+`"}`)(w, req)
			return
		}
		spec := secrets.Spec{Name: r.conn.Secret, Owner: "pat", Connection: r.conn.Name, Hosts: []string{req.Host}}
		if _, err := r.Secrets.Put(context.WithoutCancel(req.Context()), line.By, line.Reason, spec, secrets.NewValue([]byte(newer))); err != nil {
			t.Error(err)
		}
		refuse(w, req)
	})
	answer, refusal := r.serve(t.Context(), nil)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if body := drain(t, answer); strings.Contains(body, newer) || strings.Contains(body, line.Secret) {
		t.Errorf("the answer shows a credential: %s", body)
	}
	if n := len(r.up.Requests()); n != 3 {
		t.Errorf("%d requests, want one, and one that was made again", n)
	}
	events := r.Events(2, audit.CallOutcome)
	if got := []int{events[0].Event.Outcome.Attempts, events[1].Event.Outcome.Attempts}; got[0]+got[1] != 2 {
		t.Errorf("attempts %v", got)
	}
}

func TestASecretGoesToItsHeaderOnly(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	for auth, want := range map[string]string{
		connections.AuthBearer: "Authorization: Bearer " + line.Secret, connections.AuthAPIKey: "X-Api-Key: " + line.Secret,
		"header:X-Goog-Api-Key": "X-Goog-Api-Key: " + line.Secret, connections.AuthNone: "",
	} {
		answer, refusal := r.serve(t.Context(), func(c *gateway.Call) {
			c.Connection.Auth = auth
			c.Request.Header = http.Header{"Authorization": {"Bearer of the agent"}, "X-Api-Key": {"of the agent"}, "X-Goog-Api-Key": {"of the agent"}}
		})
		if refusal != nil {
			t.Fatal(auth, refusal)
		}
		drain(t, answer)
		requests := r.up.Requests()
		var found []string
		for name, values := range requests[len(requests)-1].Header {
			for _, v := range values {
				if strings.Contains(v, line.Secret) || strings.Contains(v, "of the agent") {
					found = append(found, name+": "+v)
				}
			}
		}
		if strings.Join(found, "|") != want {
			t.Errorf("%s: the upstream got %q, want %q", auth, found, want)
		}
	}
}

func TestCloseWaitsForCallsUnderWay(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	answer, refusal := r.serve(t.Context(), nil)
	if refusal != nil {
		t.Fatal(refusal)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.Gateway.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close returned %v while a call was under way", err)
	}
	drain(t, answer)
	if err := r.Gateway.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTheDialerChecksWhatItDials(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		if conn, err := gateway.Dial(t.Context(), false, net.JoinHostPort(host, port)); !errors.Is(err, gateway.ErrAddress) {
			t.Errorf("%s without allow_private: %v %v", host, conn, err)
		}
		conn, err := gateway.Dial(t.Context(), true, net.JoinHostPort(host, port))
		if err != nil {
			t.Errorf("%s with allow_private: %v", host, err)
			continue
		}
		conn.Close()
	}
	for _, never := range []string{"169.254.169.254:80", "[fd00:ec2::254]:80", "[::ffff:169.254.169.254]:80", "0.0.0.0:" + port} {
		if _, err := gateway.Dial(t.Context(), true, never); !errors.Is(err, gateway.ErrAddress) {
			t.Errorf("%s: %v", never, err)
		}
	}
}

func TestRefuseKeepsWhatAFaultSays(t *testing.T) {
	r := gateway.Refuse(fmt.Errorf("while parsing: %w", secrets.ErrHost))
	if r.Code != secrets.ErrHost.Code || r.Kind != secrets.ErrHost.Kind {
		t.Errorf("%+v", r)
	}
	if r := gateway.Refuse(errors.New("disk /var/x is full")); r.Kind != fault.Internal || strings.Contains(r.Reason, "/var") {
		t.Errorf("%+v", r)
	}
}
