package mcp_test

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp"
	"github.com/countersign/countersign/internal/gateway/mcp/stdio"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// house is Countersign with every room that MCP needs, on a fresh database.
type house struct {
	t     *testing.T
	log   *audit.Log
	ids   *identity.Service
	conns *connections.Service
	pol   *policy.Service
	secs  *secrets.Service
	finds *findings.Service
	watch *storage.Watcher
	asks  *approvals.Service // nil unless people is set
	front *mcp.Front
	url   string
	out   *lines
	tune  func(*stdio.Options)
	read  time.Duration // the limit on a body's arrival

	people   bool // people decide about held calls, and the server makes what they approved
	progress time.Duration
	grants   mcp.Grants
}

var admin = audit.Person("usr_test", "pat")

type toolTypes struct{ *connections.Service }

func (t toolTypes) ToolTypes() []policy.ToolType {
	var out []policy.ToolType
	for _, x := range t.Service.ToolTypes() {
		out = append(out, policy.ToolType(x))
	}
	return out
}

// lines collects what is logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// readWithin builds a house whose clients must send their bodies that fast.
func readWithin(t *testing.T, d time.Duration) *house {
	return assemble(t, &house{read: d}, filepath.Join(t.TempDir(), "cs.db"))
}

func build(t *testing.T) *house { return buildOn(t, filepath.Join(t.TempDir(), "cs.db"), nil) }

func buildOn(t *testing.T, dsn string, tune func(*stdio.Options)) *house {
	t.Helper()
	return assemble(t, &house{tune: tune}, dsn)
}

func assemble(t *testing.T, h *house, dsn string) *house {
	t.Helper()
	ctx := context.Background()
	h.t, h.out = t, &lines{}
	logger := slog.New(slog.NewTextHandler(h.out, nil))
	db, err := storage.Open(ctx, dsn)
	h.must(err)
	t.Cleanup(func() { db.Close() })
	h.watch = storage.NewWatcher(db, logger)
	scanner := inspection.New()
	h.log, err = audit.Open(ctx, db, audit.Options{Redactor: scanner, Keeper: audittest.Keeper("k"), Logger: logger})
	h.must(err)
	t.Cleanup(func() { h.log.Close(context.Background()) })
	keeper, err := secrets.OpenKeeper(ctx, filepath.Join(t.TempDir(), "key"))
	h.must(err)
	h.secs, err = secrets.New(db, h.log, h.watch, keeper, secrets.Options{Matcher: scanner.Known(), Logger: logger})
	h.must(err)
	h.ids, err = identity.New(db, h.log, h.watch, identity.Options{Derive: h.secs.Derive, Logger: logger})
	h.must(err)
	h.finds = findings.New(db, h.log, nil)
	h.conns, err = connections.New(db, h.log, h.watch, h.finds, connections.Options{Redactor: scanner, Logger: logger})
	h.must(err)
	h.pol, err = policy.New(db, h.log, h.watch, toolTypes{h.conns}, policy.Options{Findings: h.finds, Logger: logger})
	h.must(err)
	if h.people {
		h.asks, err = approvals.New(db, h.log, h.watch, approvals.Options{Identity: h.ids, Findings: h.finds, Derive: h.secs.Derive, Redactor: scanner, URL: "http://countersign.example", Logger: logger})
		h.must(err)
	}
	h.must(h.watch.Start(ctx))
	t.Cleanup(h.watch.Stop)
	h.line(logger, scanner)
	if h.people {
		h.must(h.asks.Start(ctx, h.makeApproved))
		t.Cleanup(func() { h.must(h.asks.Stop(ctx)) })
	}
	for _, name := range []string{"pat", "fiona"} {
		_, err := h.ids.PutUser(ctx, audit.System, "test", identity.User{Name: name, Role: "admin"})
		h.must(err)
	}
	return h
}

func (h *house) line(logger *slog.Logger, scanner *inspection.Scanner) {
	opts := gateway.Options{Authenticator: h.ids, Decider: h.pol, Ledger: h.log, Injector: h.secs, Redactor: scanner, Scanner: scanner, Logger: logger}
	if h.people {
		opts.Approvals = h.asks
	}
	g := gateway.New(opts)
	o := stdio.Options{Injector: h.secs, Ledger: h.log, Redact: scanner.Redact, Logger: logger, Grace: 500 * time.Millisecond}
	if h.tune != nil {
		h.tune(&o)
	}
	children := stdio.New(o)
	g.Stdio(children)
	h.front = mcp.New(mcp.Options{Line: g, Registry: h.conns, Key: h.secs.Derive("mcp"), Logger: logger, ReadTimeout: h.read, Progress: h.progress, Grants: h.grants})
	h.conns.SetDiscoverer(h.front)
	server := httptest.NewServer(h.front)
	h.url = server.URL
	h.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		h.front.Close()
		children.Close()
		h.must(g.Close(context.Background()))
	})
}

// makeApproved makes an approved call as the server does.
func (h *house) makeApproved(ctx context.Context, r approvals.Request, w approvals.Wire) error {
	req, err := http.NewRequestWithContext(ctx, w.Method, w.Path, bytes.NewReader(w.Body))
	if err != nil {
		return err
	}
	req.Header = http.Header(w.Header).Clone()
	h.front.Resume(httptest.NewRecorder(), req, &gateway.Resumed{Approval: r.ID, Resumed: identity.Resumed{
		Agent: r.Binding.Agent, AgentID: r.Binding.AgentID, Credential: r.Origin.Credential, Kind: r.Origin.Kind, Run: r.Run, OnBehalfOf: r.Binding.Chain}})
	return nil
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// agent registers an agent and returns its key.
func (h *house) agent(name string) string {
	h.t.Helper()
	ctx := context.Background()
	_, err := h.ids.PutAgent(ctx, admin, "test", identity.Agent{Name: name, Owner: "pat", Backup: "fiona", Purpose: "test", BusinessProcess: "test", Stage: "production"})
	h.must(err)
	_, key, err := h.ids.IssueKey(ctx, admin, "test", name, time.Hour)
	h.must(err)
	return key
}

// connect registers an upstream and pins its tools.
func (h *house) connect(c connections.Connection) {
	h.t.Helper()
	ctx := context.Background()
	c.Kind, c.Owner = connections.MCP, "pat"
	c.AllowPrivate = c.URL != ""
	_, err := h.conns.Register(ctx, admin, "test", c)
	h.must(err)
	_, err = h.conns.Refresh(ctx, admin, "test", c.Name)
	h.must(err)
}

// allow gives an agent everything on a connection, or some tools of it.
func (h *house) allow(agent, connection string, tools ...string) {
	h.t.Helper()
	if len(tools) == 0 {
		tools = []string{"*"}
	}
	_, err := h.pol.PutGrant(context.Background(), admin, "test", policy.Grant{Name: agent + "-" + connection, Agent: agent, Connection: connection, Tools: tools})
	h.must(err)
}

func (h *house) policy(text string) {
	h.t.Helper()
	_, err := h.pol.PutPolicies(context.Background(), admin, "test", "test.cedar", text)
	h.must(err)
}

// events returns the log's events of a type, oldest first, once there are want.
func (h *house) events(typ audit.Type, want int) []audit.Event {
	h.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; {
		records, err := h.log.List(context.Background(), audit.Query{Types: []audit.Type{typ}, Limit: 500, Oldest: true})
		h.must(err)
		if len(records) >= want || time.Now().After(deadline) {
			out := make([]audit.Event, len(records))
			for i, r := range records {
				out[i] = r.Event
			}
			if len(out) < want {
				h.t.Fatalf("%d events of type %s, want %d", len(out), typ, want)
			}
			return out
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// reply is an answer to a raw request.
type reply struct {
	status int
	header http.Header
	body   string
}

// raw posts a body as a client of the older era would.
func (h *house) raw(key, path, body string, headers ...string) reply {
	h.t.Helper()
	return h.do(http.MethodPost, key, path, body, headers...)
}

func (h *house) do(method, key, path, body string, headers ...string) reply {
	h.t.Helper()
	req, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
	h.must(err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	h.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	h.must(err)
	return reply{resp.StatusCode, resp.Header, string(b)}
}

// upstream is a scripted MCP server of the older era that answers with exactly
// the bytes it is told to and keeps what it got.
type upstream struct {
	*httptest.Server
	mu    sync.Mutex
	got   []string
	heads []http.Header
	tools string // the JSON array of tools/list
	reply func(w http.ResponseWriter, r *http.Request, body string) bool
}

func newUpstream(t *testing.T, tools string) *upstream {
	u := &upstream{tools: tools}
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(func() { u.CloseClientConnections(); u.Close() })
	return u
}

func (u *upstream) setTools(tools string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tools = tools
}

func (u *upstream) on(fn func(w http.ResponseWriter, r *http.Request, body string) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reply = fn
}

func (u *upstream) received() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.got...)
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	u.mu.Lock()
	u.got = append(u.got, r.Method+" "+string(b))
	u.heads = append(u.heads, r.Header.Clone())
	tools, reply := u.tools, u.reply
	u.mu.Unlock()
	if reply != nil && reply(w, r, string(b)) {
		return
	}
	v := jsontext.Value(b)
	var m struct {
		id, method string
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	for tok, err := dec.ReadToken(); err == nil; tok, err = dec.ReadToken() {
		if dec.StackDepth() == 1 && tok.Kind() == '"' {
			name := tok.String()
			val, _ := dec.ReadValue()
			switch name {
			case "id":
				m.id = string(val)
			case "method":
				m.method = strings.Trim(string(val), `"`)
			}
		}
	}
	if m.id == "" {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	result := ""
	switch m.method {
	case "initialize":
		w.Header().Set("Mcp-Session-Id", "upstream-session")
		result = `{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{},"prompts":{}},"serverInfo":{"name":"scripted","version":"1"}}`
	case "tools/list":
		result = `{"tools":` + tools + `,"vendor":{"n":12345678901234567890}}`
	case "tools/call":
		result = `{"content":[{"type":"text","text":"done","vendor":1.10}],"structuredContent":{"big":12345678901234567890,"f":1.10},"future":{"a":[]}}`
	case "resources/list":
		result = `{"resources":[{"uri":"doc://a","name":"a","x":1},{"uri":"doc://b","name":"b"}]}`
	case "resources/read":
		result = `{"contents":[{"uri":"doc://a","text":"hello"}]}`
	default:
		io.WriteString(w, `{"jsonrpc":"2.0","id":`+m.id+`,"error":{"code":-32601,"message":"Method not found"}}`)
		return
	}
	io.WriteString(w, `{"jsonrpc":"2.0","id":`+m.id+`,"result":`+result+`}`)
}

func TestMain(m *testing.M) {
	if os.Getenv("COUNTERSIGN_TEST_CHILD") != "" {
		childMain()
		return
	}
	os.Exit(m.Run())
}

func findingsQuery() findings.Query {
	return findings.Query{Rule: connections.RuleDrift, Status: "open"}
}
