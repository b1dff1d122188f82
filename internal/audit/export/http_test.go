package export_test

import (
	"context"
	"encoding/json/v2"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	coltrace "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/export"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// api serves h and returns how to ask it as somebody.
func api(t *testing.T, h *house) func(who, method, path string) (*http.Response, string) {
	t.Helper()
	mux := http.NewServeMux()
	a := rest.New(mux, "test", func(_ context.Context, token string) (rest.Caller, error) {
		return rest.Caller{ID: "usr_1", Name: token, Role: token}, nil
	}, slog.New(slog.DiscardHandler))
	h.s.Routes(a)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return func(who, method, path string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+who)
		req.Header.Set("X-Countersign-Reason", "because")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
}

func TestAPI(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h, rc := open(t, db), receive(t)
		target := collector(rc)
		h.follow(target)
		ids := h.fill(20)
		h.call("call_1")
		h.caughtUp("collector")
		ask := api(t, h)

		resp, body := ask("viewer", "GET", "/api/v1/log/exports")
		var list struct{ Targets []export.Status }
		if err := json.Unmarshal([]byte(body), &list, json.MatchCaseInsensitiveNames(true)); err != nil || len(list.Targets) != 1 || list.Targets[0].State != "following" {
			t.Errorf("%d %s %v", resp.StatusCode, body, err)
		}
		for path, want := range map[string]int{"viewer /collector/resume": 403, "viewer /collector/skip": 403, "admin /collector/skip": 409, "admin /collector/resume": 204, "admin /none/resume": 404} {
			who, path, _ := strings.Cut(path, " ")
			if resp, body := ask(who, "POST", "/api/v1/log/exports"+path); resp.StatusCode != want {
				t.Errorf("%s %s: %d %s", who, path, resp.StatusCode, body)
			}
		}

		resp, body = ask("auditor", "GET", "/api/v1/log/export/events?format=ocsf")
		if resp.Trailer.Get(export.Complete) != "true" || strings.Contains(body, "DE89") {
			t.Errorf("%v %s", resp.Trailer, body)
		}
		for line := range strings.Lines(body) {
			if p := readSchema(t).check([]byte(line)); len(p) > 0 {
				t.Errorf("%v in %s", p, line)
			}
		}
		if n := strings.Count(body, "\n"); n != len(h.all()) {
			t.Errorf("%d lines of %d events", n, len(h.all()))
		}
		if _, part := ask("auditor", "GET", "/api/v1/log/export/events?format=jsonl&after="+ids[9]); strings.Contains(part, ids[9]) || !strings.Contains(part, ids[10]) || strings.Contains(part, ids[3]) {
			t.Error("after does not begin after")
		}
		if resp, body := ask("viewer", "GET", "/api/v1/log/export/events"); resp.StatusCode != 403 {
			t.Errorf("a viewer exports the log: %d %s", resp.StatusCode, body)
		}
		soon := url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339))
		if _, part := ask("auditor", "GET", "/api/v1/log/export/events?since="+soon+"&until="+soon); part != "" {
			t.Errorf("from the future: %s", part)
		}
		for _, bad := range []string{"after=x", "since=" + soon + "&until=2020-01-01T00:00:00Z", "format=xml"} {
			if resp, body := ask("auditor", "GET", "/api/v1/log/export/events?"+bad); resp.StatusCode != 400 && resp.StatusCode != 422 {
				t.Errorf("%s: %d %s", bad, resp.StatusCode, body)
			}
		}
		for _, format := range []string{"jsonl", "ocsf"} {
			if _, body = ask("auditor", "GET", "/api/v1/log/export/events?payloads=true&format="+format); !strings.Contains(body, "DE89") {
				t.Errorf("no payloads in %s", format)
			}
		}
		recs, err := h.log.List(t.Context(), audit.Query{Types: []audit.Type{"payload.exported"}})
		if err != nil || len(recs) != 2 || recs[0].Event.Actor.Name != "auditor" || recs[0].Event.Reason != "because" {
			t.Errorf("%d %v", len(recs), err)
		}
	})
}

// The certificate is verified, and what fails shows no secret.
func TestTLS(t *testing.T) {
	h, rc := open(t, storagetest.Open(t, storagetest.SQLite(t))), receive(t)
	srv := httptest.NewUnstartedServer(rc)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	target := collector(rc)
	target.URL = srv.URL
	h.fill(2)
	h.follow(target)
	until(t, "failing", func() bool { return h.status("collector").State == export.Failing })
	if st := h.status("collector"); !strings.Contains(st.Error, "certificate") || strings.Contains(st.Error, "s3cr3t") || rc.count() != 0 {
		t.Errorf("%+v", st)
	}
	h.s.Stop(t.Context())
	target.CA = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(target.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	h.follow(target)
	h.caughtUp("collector")
	until(t, "everything arrives", func() bool { return contains(rc.events(), h.all()) })
}

// overGRPC is an OTLP/gRPC receiver.
type overGRPC struct {
	mu     sync.Mutex
	fail   error
	events []string
	spans  int
	auth   []string
}

func (g *overGRPC) logs(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var req collogs.ExportLogsServiceRequest
	if err := dec(&req); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return nil, g.fail
	}
	md, _ := metadata.FromIncomingContext(ctx)
	g.auth = md.Get("authorization")
	for _, r := range records(&req) {
		g.events = append(g.events, eventOf(r))
	}
	return &collogs.ExportLogsServiceResponse{}, nil
}

func (g *overGRPC) traces(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var req coltrace.ExportTraceServiceRequest
	if err := dec(&req); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.spans += len(req.ResourceSpans[0].ScopeSpans[0].Spans)
	return &coltrace.ExportTraceServiceResponse{}, nil
}

func TestGRPC(t *testing.T) {
	h, g := open(t, storagetest.Open(t, storagetest.SQLite(t))), &overGRPC{fail: status.Error(codes.Unavailable, "not yet")}
	srv := grpc.NewServer()
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: "opentelemetry.proto.collector.logs.v1.LogsService", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: g.logs}}}, g)
	srv.RegisterService(&grpc.ServiceDesc{ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: g.traces}}}, g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	h.fill(5)
	h.follow(export.Target{Name: "collector", Kind: export.OTLP, Protocol: export.GRPC, URL: "http://" + l.Addr().String(), Headers: map[string]string{"authorization": "Bearer s3cr3t-value"}})
	until(t, "failing", func() bool { return strings.Contains(h.status("collector").Error, "not yet") })
	set := func(err error) { g.mu.Lock(); g.fail = err; g.mu.Unlock() }
	set(status.Error(codes.PermissionDenied, "who are you with Bearer s3cr3t-value"))
	until(t, "blocked", func() bool { return h.status("collector").BlockedAt == "everything" })
	if st := h.status("collector"); strings.Contains(st.Error, "s3cr3t") {
		t.Error(st.Error)
	}
	set(nil)
	if err := h.s.Resume(t.Context(), ada, "collector", "x"); err != nil {
		t.Fatal(err)
	}
	h.caughtUp("collector")
	until(t, "whole", func() bool { // that it works again is an event too
		g.mu.Lock()
		defer g.mu.Unlock()
		return contains(g.events, h.all()) && g.spans == 5
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	if fmt.Sprint(g.auth) != "[Bearer s3cr3t-value]" {
		t.Errorf("%v", g.auth)
	}
}

func BenchmarkMapping(b *testing.B) {
	ss := samples()
	recs := make([]audit.Record, len(ss))
	for i, ev := range ss {
		recs[i] = record(b, i, ev)
	}
	m := &export.Mapper{Version: "1"}
	b.Run("ocsf", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := m.OCSF(&recs[i%len(recs)]); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("otlp", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			m.LogRecord(&recs[i%len(recs)])
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
}

// BenchmarkExport sends a backlog to a receiver on loopback and to files.
func BenchmarkExport(b *testing.B) {
	for _, kind := range []string{export.OTLP, export.OCSF} {
		b.Run(kind, func(b *testing.B) {
			db := storagetest.Open(b, storagetest.SQLite(b))
			l, err := audit.Open(b.Context(), db, audit.Options{Redactor: noSecrets{}, Keeper: audittest.Keeper("k")})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close(context.Background())
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					for range b.N/64 + 1 {
						if _, err := l.Append(b.Context(), audit.Event{Type: audit.CallDenied, Agent: "a", Run: "r", Call: "c", Connection: "ledger", Tool: "pay", Reason: "no"}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
			defer srv.Close()
			target := export.Target{Name: "t", Kind: kind, URL: srv.URL, Dir: b.TempDir()}
			b.ResetTimer()
			s, err := export.New(b.Context(), db, l, export.Options{Targets: []export.Target{target}})
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			until(b, "caught up", func() bool {
				st, err := s.Status(b.Context())
				return err == nil && st[0].Behind == 0
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			if err := s.Stop(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}
