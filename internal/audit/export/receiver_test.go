package export_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	collogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	coltrace "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	logs "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	trace "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/export"
	"github.com/countersign/countersign/internal/storage"
)

// receiver is an OTLP/HTTP receiver that keeps what it takes.
type receiver struct {
	t  testing.TB
	ts *httptest.Server

	mu       sync.Mutex
	answer   func(w http.ResponseWriter, r *http.Request, ids []string) bool // true: it answered itself, and takes nothing
	records  []*logs.LogRecord
	spans    []*trace.Span
	headers  []http.Header
	requests int
}

func receive(t testing.TB) *receiver {
	r := &receiver{t: t}
	r.ts = httptest.NewServer(r)
	t.Cleanup(r.ts.Close)
	return r
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender was killed
	}
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(z)
		}
		if err != nil {
			rc.t.Errorf("not gzip: %v", err)
		}
	}
	var l collogs.ExportLogsServiceRequest
	var tr coltrace.ExportTraceServiceRequest
	var resp proto.Message = &collogs.ExportLogsServiceResponse{}
	switch r.URL.Path {
	case "/v1/logs":
		err = proto.Unmarshal(body, &l)
	case "/v1/traces":
		err = proto.Unmarshal(body, &tr)
		resp = &coltrace.ExportTraceServiceResponse{}
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
		rc.t.Errorf("%s %s: %v", r.URL.Path, r.Header.Get("Content-Type"), err)
	}
	rc.mu.Lock()
	answer := rc.answer
	rc.requests++
	rc.headers = append(rc.headers, r.Header)
	rc.mu.Unlock()
	var ids []string
	for _, rec := range records(&l) {
		ids = append(ids, eventOf(rec))
	}
	if answer != nil && answer(w, r, ids) {
		return
	}
	rc.mu.Lock()
	rc.records = append(rc.records, records(&l)...)
	for _, rs := range tr.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			rc.spans = append(rc.spans, ss.Spans...)
		}
	}
	rc.mu.Unlock()
	b, err := proto.Marshal(resp)
	if err != nil {
		rc.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(b)
}

func records(l *collogs.ExportLogsServiceRequest) (out []*logs.LogRecord) {
	for _, rl := range l.ResourceLogs {
		for _, sl := range rl.ScopeLogs {
			out = append(out, sl.LogRecords...)
		}
	}
	return out
}

func eventOf(r *logs.LogRecord) string { return attr(r, "countersign.event.id") }

func attr(r *logs.LogRecord, key string) string {
	for _, a := range r.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func (rc *receiver) set(answer func(w http.ResponseWriter, r *http.Request, ids []string) bool) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.answer = answer
}

// events returns the identifiers of events that arrived, with those that came twice.
func (rc *receiver) events() []string {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	var ids []string
	for _, r := range rc.records {
		ids = append(ids, eventOf(r))
	}
	return ids
}

func (rc *receiver) count() int {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return rc.requests
}

// house is a log with a service that exports it.
type house struct {
	t   *testing.T
	db  *storage.DB
	log *audit.Log
	s   *export.Service

	mu     sync.Mutex
	alerts []export.Alert
	now    func() time.Time
}

type noSecrets struct{}

func (noSecrets) Redact(b []byte) []byte {
	return bytes.ReplaceAll(b, []byte("hunter2"), []byte("[redacted]"))
}

// open opens a log in db, without a service.
func open(t *testing.T, db *storage.DB) *house {
	t.Helper()
	l, err := audit.Open(t.Context(), db, audit.Options{Redactor: noSecrets{}, Keeper: audittest.Keeper("k")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	return &house{t: t, db: db, log: l}
}

// follow starts a service for targets.
func (h *house) follow(targets ...export.Target) *export.Service {
	h.t.Helper()
	s, err := export.New(h.t.Context(), h.db, h.log, export.Options{
		Targets: targets, Version: "test", Logger: slog.New(slog.NewTextHandler(h.t.Output(), nil)), Now: h.now,
		Backoff: 5 * time.Millisecond, AlertAfter: time.Nanosecond, Redact: noSecrets{}.Redact,
		Alert: func(_ context.Context, _ *audit.Tx, a export.Alert) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.alerts = append(h.alerts, a)
			return nil
		},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := s.Start(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { s.Stop(context.Background()) })
	h.s = s
	return s
}

func (h *house) add(ev audit.Event, p ...audit.Payload) string {
	h.t.Helper()
	ref, err := h.log.Append(context.Background(), ev, p...)
	if err != nil {
		h.t.Fatal(err)
	}
	return ref.ID
}

func (h *house) fill(n int) (ids []string) {
	for range n {
		ids = append(ids, h.add(audit.Event{Type: audit.CallDenied, Agent: "a", Run: "run_1", Call: "call_x", Connection: "ledger", Tool: "pay", Decision: &audit.Decision{Effect: "deny", Reason: "no"}}))
	}
	return ids
}

// call records a call from intent to outcome.
func (h *house) call(id string) {
	h.t.Helper()
	ev := audit.Event{Actor: audit.Actor{Kind: audit.KindAgent, ID: "agt_1", Name: "a"}, Agent: "a", Run: "run_1", Call: id, Connection: "ledger", Tool: "pay", Effect: "write"}
	r, err := h.log.Intent(context.Background(), ev, audit.Payload{Name: "arguments", Body: []byte(`{"iban":"DE89"}`)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.log.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded, Micros: 1000}})
	until(h.t, "the outcome is durable", func() bool {
		recs, err := h.log.List(context.Background(), audit.Query{Call: id, Types: []audit.Type{audit.CallOutcome}})
		return err == nil && len(recs) == 1
	})
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (h *house) status(name string) export.Status {
	h.t.Helper()
	all, err := h.s.Status(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(s export.Status) bool { return s.ID == name })
	if i < 0 {
		h.t.Fatalf("no %s in %v", name, all)
	}
	return all[i]
}

func (h *house) caughtUp(name string) {
	h.t.Helper()
	until(h.t, "caught up", func() bool { s := h.status(name); return s.Behind == 0 && s.State == export.Following })
}

// all returns the identifiers of every event in the log.
func (h *house) all() (ids []string) {
	h.t.Helper()
	after := ""
	for {
		recs, err := h.log.List(context.Background(), audit.Query{Oldest: true, Limit: 1000, After: after})
		if err != nil {
			h.t.Fatal(err)
		}
		for _, r := range recs {
			ids = append(ids, r.Event.ID)
		}
		if len(recs) < 1000 {
			return ids
		}
		after = ids[len(ids)-1]
	}
}

func (h *house) told(rule string, over bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.alerts, func(a export.Alert) bool { return a.Rule == rule && a.Over == over })
}

// contains reports whether every one of want is in got.
func contains(got, want []string) bool {
	set := map[string]bool{}
	for _, g := range got {
		set[g] = true
	}
	for _, w := range want {
		if !set[w] {
			return false
		}
	}
	return true
}
