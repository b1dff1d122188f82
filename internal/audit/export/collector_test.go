package export_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	collogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	status "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/export"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func collector(rc *receiver) export.Target {
	return export.Target{Name: "collector", Kind: export.OTLP, URL: rc.ts.URL, Headers: map[string]string{"Authorization": "Bearer s3cr3t-value"}}
}

var ada = audit.Person("usr_1", "ada")

func TestLogsAndTracesArrive(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h, rc := open(t, db), receive(t)
		h.fill(3)
		h.follow(collector(rc))
		for i := range 20 {
			h.call(fmt.Sprint("call_", i))
		}
		until(t, "spans of 20 calls and 3 denials", func() bool { rc.mu.Lock(); defer rc.mu.Unlock(); return len(rc.spans) >= 23 })
		h.caughtUp("collector")
		if got, want := rc.events(), h.all(); !contains(got, want) || len(got) != len(want) {
			t.Errorf("%d events arrived of %d", len(got), len(want))
		}
		if st := h.status("collector"); st.Sent != int64(len(h.all())) || st.Error != "" || st.LastSent.IsZero() || strings.Contains(fmt.Sprint(st), "s3cr3t") {
			t.Errorf("%+v", st)
		}
		rc.mu.Lock()
		defer rc.mu.Unlock()
		for _, s := range rc.spans {
			if len(s.TraceId) != 16 || !bytes.Equal(s.TraceId, rc.spans[0].TraceId) {
				t.Errorf("a span outside the run's trace: %v", s)
			}
			if s.Name == "tools/call pay" && s.Status.GetCode() == 0 && s.EndTimeUnixNano-s.StartTimeUnixNano != 1_000_000 {
				t.Errorf("%v", s)
			}
		}
		if rc.headers[0].Get("Authorization") != "Bearer s3cr3t-value" || rc.headers[0].Get("Content-Encoding") != "gzip" {
			t.Errorf("%v", rc.headers[0])
		}
		if strings.Contains(fmt.Sprint(rc.records, rc.spans), "DE89") {
			t.Error("payloads left without being asked for")
		}
	})
}

// A target that is down, slow, answers garbage or asks for patience gets
// everything in the end, and someone hears of it meanwhile.
func TestWhateverGoesWrongEverythingArrivesInTheEnd(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h, rc := open(t, db), receive(t)
		for name, answer := range map[string]func(http.ResponseWriter, *http.Request, []string) bool{
			"unavailable": func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(503)
				return true
			},
			"limited":  func(w http.ResponseWriter, _ *http.Request, _ []string) bool { w.WriteHeader(429); return true },
			"a defect": func(w http.ResponseWriter, _ *http.Request, _ []string) bool { w.WriteHeader(500); return true },
			"a web page": func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
				fmt.Fprint(w, "<html>welcome")
				return true
			},
			"not protobuf": func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
				w.Header().Set("Content-Type", "application/x-protobuf")
				w.Write([]byte{0xff, 0xff})
				return true
			},
			"no end": func(w http.ResponseWriter, r *http.Request, _ []string) bool {
				w.Header().Set("Content-Type", "application/x-protobuf")
				w.Write(bytes.Repeat([]byte("x"), 3<<20))
				return true
			},
			"cut off": func(http.ResponseWriter, *http.Request, []string) bool { panic(http.ErrAbortHandler) },
			"slow": func(_ http.ResponseWriter, r *http.Request, _ []string) bool {
				<-r.Context().Done()
				return true
			},
		} {
			t.Run(name, func(t *testing.T) {
				var asked atomic.Int32
				rc.set(func(w http.ResponseWriter, r *http.Request, ids []string) bool {
					asked.Add(1)
					return answer(w, r, ids)
				})
				target := collector(rc)
				target.Timeout = 100 * time.Millisecond
				h.t = t
				s := h.follow(target)
				ids := h.fill(5)
				until(t, "asked three times", func() bool { return asked.Load() >= 3 })
				until(t, "failing", func() bool {
					st := h.status("collector")
					return st.State == export.Failing && st.Error != "" && !st.Since.IsZero()
				})
				until(t, "somebody told", func() bool { return h.told("export.failing", false) })
				rc.set(nil)
				h.caughtUp("collector")
				if !contains(rc.events(), ids) {
					t.Error("something is missing")
				}
				until(t, "somebody told that it is over", func() bool { // in the log, since the alert comes before the commit
					recs, err := h.log.List(t.Context(), audit.Query{Types: []audit.Type{"export.stopped", "export.recovered"}, Limit: 1})
					return err == nil && len(recs) == 1 && recs[0].Event.Type == "export.recovered" && h.told("export.failing", true)
				})
				if err := s.Stop(t.Context()); err != nil {
					t.Error(err)
				}
				h.alerts = nil
			})
		}
	})
}

// An event that the target refuses is not sent for ever and not dropped: the
// export stops there until a person decides.
func TestPoisonStopsTheExportUntilAPersonDecides(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h, rc := open(t, db), receive(t)
		before := h.fill(10)
		poison := h.add(audit.Event{Type: audit.CallHeld, Agent: "poison"})
		after := h.fill(10)
		rc.set(func(w http.ResponseWriter, r *http.Request, ids []string) bool {
			if !slices.Contains(ids, poison) {
				return false
			}
			b, _ := proto.Marshal(&status.Status{Message: "cannot take it; you sent Bearer s3cr3t-value and hunter2"})
			w.Header().Set("Content-Type", "application/x-protobuf")
			w.WriteHeader(400)
			w.Write(b)
			return true
		})
		h.follow(collector(rc))
		until(t, "blocked", func() bool { return h.status("collector").State == export.Blocked })
		st := h.status("collector")
		if st.BlockedAt != poison || !strings.Contains(st.Help, "skip collector") || !strings.Contains(st.Error, "cannot take it") {
			t.Errorf("%+v", st)
		}
		if strings.Contains(st.Error, "s3cr3t") || strings.Contains(st.Error, "hunter2") {
			t.Errorf("a secret is shown: %s", st.Error)
		}
		if lane := laneOrder(t, h, poison); !contains(rc.events(), lane) {
			t.Errorf("what stands before the event in its lane has not arrived")
		}
		until(t, "somebody told", func() bool { return h.told("export.failing", false) })
		n := rc.count()
		if err := h.s.Resume(t.Context(), ada, "collector", "I mended it"); err != nil {
			t.Fatal(err)
		}
		until(t, "tried again", func() bool { return rc.count() > n && h.status("collector").State == export.Blocked })
		if err := h.s.Skip(t.Context(), ada, "collector", ""); !errors.Is(err, export.ErrReason) {
			t.Errorf("skipped without a reason: %v", err)
		}
		if err := h.s.Skip(t.Context(), ada, "nobody", "x"); !errors.Is(err, export.ErrNoTarget) {
			t.Error(err)
		}
		if err := h.s.Skip(t.Context(), ada, "collector", "the collector cannot parse it, ticket 7"); err != nil {
			t.Fatal(err)
		}
		h.caughtUp("collector")
		got := rc.events()
		if !contains(got, before) || !contains(got, after) || slices.Contains(got, poison) {
			t.Error("not everything else arrived")
		}
		if st := h.status("collector"); st.Skipped != 1 || st.BlockedAt != "" {
			t.Errorf("%+v", st)
		}
		recs, err := h.log.List(t.Context(), audit.Query{Types: []audit.Type{"export.skipped"}})
		if err != nil || len(recs) != 1 || recs[0].Event.Actor.Name != "ada" || !strings.Contains(string(recs[0].Event.Detail), poison) || !strings.Contains(recs[0].Event.Reason, "ticket 7") {
			t.Errorf("%v %v", recs, err)
		}
		if err := h.s.Skip(t.Context(), ada, "collector", "again"); !errors.Is(err, export.ErrNotBlocked) {
			t.Error(err)
		}
	})
}

// laneOrder returns the events before one in its lane.
func laneOrder(t *testing.T, h *house, event string) (ids []string) {
	t.Helper()
	r, err := h.log.Get(t.Context(), event)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.log.Next(t.Context(), nil, 1000, false, func(o audit.Record) error {
		if o.Lane == r.Lane && o.SN < r.SN {
			ids = append(ids, o.Event.ID)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// A target that takes nothing at all is not asked event by event.
func TestATargetThatRefusesEverything(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h, rc := open(t, db), receive(t)
		h.fill(20)
		rc.set(func(w http.ResponseWriter, r *http.Request, _ []string) bool {
			if r.Header.Get("Authorization") != "" {
				http.Redirect(w, r, "http://elsewhere.example/", http.StatusTemporaryRedirect)
				return true
			}
			w.WriteHeader(401)
			return true
		})
		h.follow(collector(rc))
		until(t, "blocked", func() bool { return h.status("collector").State == export.Blocked })
		if st := h.status("collector"); st.BlockedAt != "everything" || !strings.Contains(st.Error, "redirect") || rc.count() != 1 {
			t.Errorf("%+v after %d requests", st, rc.count())
		}
		if err := h.s.Skip(t.Context(), ada, "collector", "x"); !errors.Is(err, export.ErrNotBlocked) {
			t.Error(err)
		}
		rc.set(nil)
		if err := h.s.Resume(t.Context(), ada, "collector", "mended"); err != nil {
			t.Fatal(err)
		}
		h.caughtUp("collector")
		until(t, "everything arrives", func() bool { return contains(rc.events(), h.all()) })
	})
}

func TestPartialSuccessIsCountedAndTold(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h, rc := open(t, db), receive(t)
		ids := h.fill(20)
		var once atomic.Bool
		rc.set(func(w http.ResponseWriter, r *http.Request, ids []string) bool {
			if len(ids) < 2 || once.Swap(true) {
				return false
			}
			b, _ := proto.Marshal(&collogs.ExportLogsServiceResponse{PartialSuccess: &collogs.ExportLogsPartialSuccess{RejectedLogRecords: 2, ErrorMessage: "too old"}})
			w.Header().Set("Content-Type", "application/x-protobuf")
			w.Write(b)
			return true
		})
		h.follow(collector(rc))
		h.caughtUp("collector")
		until(t, "told", func() bool { return h.told("export.rejected", false) })
		if st := h.status("collector"); st.Rejected != 2 || st.Sent < int64(len(ids)) {
			t.Errorf("%+v", st)
		}
	})
}

// One replica sends; when it stops, another goes on where it was.
func TestTwoReplicasOneSends(t *testing.T) {
	dsn := storagetest.Postgres(t)
	rc := receive(t)
	replicas := map[string]*house{}
	for _, name := range []string{"one", "two"} {
		h := open(t, storagetest.Open(t, dsn))
		target := collector(rc)
		target.Headers = map[string]string{"X-Replica": name}
		h.follow(target)
		replicas[name] = h
	}
	one, two := replicas["one"], replicas["two"]
	for range 10 {
		one.fill(3)
		two.fill(3)
	}
	one.caughtUp("collector")
	senders := func() map[string]int {
		rc.mu.Lock()
		defer rc.mu.Unlock()
		n := map[string]int{}
		for _, h := range rc.headers {
			n[h.Get("X-Replica")]++
		}
		return n
	}
	n := senders()
	if len(n) != 1 || len(rc.events()) != len(one.all()) {
		t.Fatalf("%v sent %d of %d events", n, len(rc.events()), len(one.all()))
	}
	first, second := one, two
	if n["two"] > 0 {
		first, second = two, one
	}
	if err := first.s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.fill(3)
	first.fill(3)
	second.caughtUp("collector")
	if n := senders(); len(n) != 2 || len(rc.events()) != len(one.all()) || !contains(rc.events(), one.all()) {
		t.Errorf("%v sent %d of %d events", n, len(rc.events()), len(one.all()))
	}
}

func TestTargetsThatCannotBe(t *testing.T) {
	h := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	for want, target := range map[string]export.Target{
		"name":                   {Kind: export.OTLP, URL: "https://x"},
		"kind":                   {Name: "a", Kind: "kafka"},
		"no http(s) URL":         {Name: "a", Kind: export.OTLP, URL: "collector:4317"},
		"in plain":               {Name: "a", Kind: export.OTLP, URL: "http://collector.example:4318"},
		"credentials":            {Name: "a", Kind: export.OTLP, URL: "https://user:s3cr3t@collector.example"},
		"put credentials":        {Name: "a", Kind: export.OTLP, URL: "https://collector.example?key=s3cr3t"},
		"absolute":               {Name: "a", Kind: export.OCSF, Dir: "relative"},
		"name or value of a hea": {Name: "a", Kind: export.OTLP, URL: "https://x", Headers: map[string]string{"A": "s3cr3t\r\nX: y"}},
		"protocol":               {Name: "a", Kind: export.OTLP, URL: "https://x", Protocol: "carrier/pigeon"},
		"timeout":                {Name: "a", Kind: export.OTLP, URL: "https://x", Timeout: time.Hour},
		"neither":                {Name: "a", Kind: export.OTLP, URL: "https://x", NoLogs: true, NoTraces: true},
		"ca":                     {Name: "a", Kind: export.OTLP, URL: "https://x", CA: "/nowhere"},
	} {
		_, err := export.New(t.Context(), h.db, h.log, export.Options{Targets: []export.Target{target}})
		if !errors.Is(err, export.ErrTarget) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestANewDestinationIsRecorded(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h, rc := open(t, db), receive(t)
		h.fill(3)
		target := collector(rc)
		target.FromNow = true
		h.follow(target)
		h.caughtUp("collector")
		if got := rc.events(); len(got) != 1 {
			t.Errorf("from now on means the event about it: %d", len(got))
		}
		h.s.Stop(t.Context())
		h.follow(target) // the same
		h.s.Stop(t.Context())
		target.Payloads = true
		h.follow(target)
		recs, err := h.log.List(t.Context(), audit.Query{Types: []audit.Type{"export.configured"}})
		if err != nil || len(recs) != 2 || !strings.Contains(string(recs[0].Event.Detail), "with payloads") || strings.Contains(string(recs[0].Raw), "s3cr3t") {
			t.Errorf("%d %v", len(recs), err)
		}
		h.call("call_p")
		until(t, "the payload", func() bool {
			rc.mu.Lock()
			defer rc.mu.Unlock()
			return strings.Contains(fmt.Sprint(rc.records), "DE89") && strings.Contains(fmt.Sprint(rc.spans), "DE89")
		})
	})
}

// A target that throws everything away has refused it, and one that asks for
// patience is left alone for as long.
func TestEverythingThrownAwayIsARefusalAndRetryAfterIsKept(t *testing.T) {
	h, rc := open(t, storagetest.Open(t, storagetest.SQLite(t))), receive(t)
	rc.set(func(w http.ResponseWriter, _ *http.Request, ids []string) bool {
		b, _ := proto.Marshal(&collogs.ExportLogsServiceResponse{PartialSuccess: &collogs.ExportLogsPartialSuccess{RejectedLogRecords: int64(len(ids)), ErrorMessage: "no room"}})
		w.Header().Set("Content-Type", "application/x-protobuf")
		w.Write(b)
		return true
	})
	h.fill(3)
	h.follow(collector(rc))
	until(t, "blocked", func() bool {
		st := h.status("collector")
		return st.State == export.Blocked && strings.Contains(st.Error, "no room")
	})
	if st := h.status("collector"); st.Sent != 0 || st.Behind == 0 {
		t.Errorf("%+v", st)
	}
	var asked []time.Time
	rc.set(func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
		rc.mu.Lock()
		defer rc.mu.Unlock()
		asked = append(asked, time.Now())
		if len(asked) > 1 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	if err := h.s.Resume(t.Context(), ada, "collector", "x"); err != nil {
		t.Fatal(err)
	}
	until(t, "everything arrives", func() bool { return contains(rc.events(), h.all()) })
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if d := asked[1].Sub(asked[0]); d < 990*time.Millisecond {
		t.Errorf("asked again after %s", d)
	}
}
