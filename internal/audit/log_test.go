package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// masker replaces one known secret, like the real redactor does.
type masker struct{ secret string }

func (m masker) Redact(b []byte) []byte {
	return bytes.ReplaceAll(b, []byte(m.secret), []byte("[redacted]"))
}

const secret = "hunter2-hunter2-hunter2"

func options(t testing.TB) audit.Options {
	var h slog.Handler = slog.DiscardHandler
	if testing.Verbose() {
		h = slog.NewTextHandler(t.Output(), nil)
	}
	return audit.Options{Redactor: masker{secret}, Keeper: audittest.Keeper("k"), Logger: slog.New(h)}
}

func open(t testing.TB, db *storage.DB, o audit.Options) *audit.Log {
	t.Helper()
	l, err := audit.Open(context.Background(), db, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	return l
}

func callEvent(call string) audit.Event {
	return audit.Event{Actor: audit.Actor{Kind: audit.KindAgent, Name: "a"}, Agent: "a", Run: "run-1", Call: call, Connection: "ledger", Tool: "pay"}
}

func mustVerify(t *testing.T, l *audit.Log) audit.Report {
	t.Helper()
	rep, err := l.Verify(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Problems) > 0 {
		t.Fatalf("%+v", rep.Problems)
	}
	return rep
}

func TestIntentAndOutcome(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		l := open(t, db, options(t))
		r, err := l.Intent(ctx, callEvent("call-1"), audit.Payload{Name: "arguments", Body: []byte(`{"amount":1}`)})
		if err != nil {
			t.Fatal(err)
		}
		if !r.For("call-1") || r.For("call-2") || r.For("") || (audit.Receipt{}).For("") {
			t.Error("the receipt is for the wrong call")
		}
		done := audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded, Code: 200}}
		l.Outcome(r, done, audit.Payload{Name: "result", Body: []byte("ok"), Size: 99})
		l.Outcome(r, done) // refused: there is one already
		l.Outcome(audit.Receipt{}, done)
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Intent(ctx, callEvent("call-2")); !errors.Is(err, audit.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
		l = open(t, db, options(t))
		recs, err := l.List(ctx, audit.Query{Call: "call-1", Oldest: true, Payloads: true})
		if err != nil || len(recs) != 2 {
			t.Fatalf("%d records, %v", len(recs), err)
		}
		in, out := recs[0], recs[1]
		if in.Event.ID != r.Event() || in.Event.Type != audit.CallIntent || string(in.Payloads["arguments"]) != `{"amount":1}` {
			t.Errorf("intent %+v", in)
		}
		if out.Event.Type != audit.CallOutcome || out.Event.Agent != "a" || out.Event.Tool != "pay" || out.Lane != in.Lane ||
			out.Event.Payloads[0].Size != 99 || string(out.Payloads["result"]) != "ok" || out.Event.Outcome.Code != 200 {
			t.Errorf("outcome %+v", out)
		}
		got, err := l.Get(ctx, r.Event())
		if err != nil || !bytes.Equal(got.Raw, in.Raw) || string(got.Payloads["arguments"]) != `{"amount":1}` {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := l.Get(ctx, "evt_none"); !errors.Is(err, audit.ErrNotFound) {
			t.Error(err)
		}
		mustVerify(t, l)
	})
}

func TestManyAppendersAreAllDurable(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		l := open(t, db, options(t))
		const writers, each = 16, 50
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[string]bool{}
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					call := fmt.Sprintf("call-%d-%d", w, i)
					r, err := l.Intent(ctx, callEvent(call), audit.Payload{Name: "arguments", Body: []byte(call)})
					if err != nil {
						t.Error(err)
						return
					}
					l.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}})
					ref, err := l.Append(ctx, audit.Event{Type: audit.CallDenied, Agent: "b"})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					seen[r.Event()], seen[ref.ID] = true, true
					mu.Unlock()
				}
			})
		}
		for range 20 {
			wg.Go(func() {
				if err := l.Change(ctx, func(tx *audit.Tx) error {
					tx.Record(audit.Event{Type: "agent.created", Object: "agent/x", Actor: audit.System})
					return storage.Bump(ctx, tx.Tx, "agents")
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		l = open(t, db, options(t))
		if rep := mustVerify(t, l); rep.Events != writers*each*3+20 {
			t.Errorf("%d events", rep.Events)
		}
		for ev := range seen {
			if _, err := l.Get(ctx, ev); err != nil {
				t.Errorf("%s: %v", ev, err)
			}
		}
	})
}

func TestChangeIsAllOrNothing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		l := open(t, db, options(t))
		version := func() (v int64) {
			_ = db.QueryRow(ctx, `SELECT version FROM versions WHERE name = 'x'`).Scan(&v)
			return v
		}
		ev := audit.Event{Type: "agent.created", Actor: audit.Person("usr_1", "ada"), Reason: "new"}
		boom := errors.New("boom")
		for _, c := range []struct {
			name string
			fn   func(tx *audit.Tx) error
			want error
		}{
			{"unrecorded", func(tx *audit.Tx) error { return storage.Bump(ctx, tx.Tx, "x") }, audit.ErrUnrecorded},
			{"failed", func(tx *audit.Tx) error { tx.Record(ev); _ = storage.Bump(ctx, tx.Tx, "x"); return boom }, boom},
			{"bad event", func(tx *audit.Tx) error {
				tx.Record(audit.Event{Type: "nonsense"})
				return storage.Bump(ctx, tx.Tx, "x")
			}, audit.ErrEvent},
			{"intent", func(tx *audit.Tx) error {
				tx.Record(audit.Event{Type: audit.CallIntent})
				return storage.Bump(ctx, tx.Tx, "x")
			}, audit.ErrEvent},
		} {
			if err := l.Change(ctx, c.fn); !errors.Is(err, c.want) || version() != 0 {
				t.Errorf("%s: %v, version %d", c.name, err, version())
			}
		}
		if err := l.Change(ctx, func(*audit.Tx) error { return nil }); err != nil {
			t.Error(err)
		}
		if err := l.Change(ctx, func(tx *audit.Tx) error {
			tx.Record(ev, audit.Payload{Name: "before", Body: []byte("b")})
			return storage.Bump(ctx, tx.Tx, "x")
		}); err != nil || version() != 1 {
			t.Errorf("%v, version %d", err, version())
		}
		if rep := mustVerify(t, l); rep.Events != 1 {
			t.Errorf("%d events", rep.Events)
		}
	})
}

func TestSecondProcessIsRefusedOnSQLite(t *testing.T) {
	dsn := storagetest.SQLite(t)
	l := open(t, storagetest.Open(t, dsn), options(t))
	if _, err := audit.Open(context.Background(), storagetest.Open(t, dsn), options(t)); !errors.Is(err, audit.ErrInUse) {
		t.Fatal(err)
	}
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	open(t, storagetest.Open(t, dsn), options(t))
}

func TestBadEventsAreRefused(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		if _, err := audit.Open(ctx, db, audit.Options{}); !errors.Is(err, audit.ErrNoRedactor) {
			t.Error(err)
		}
		if _, err := audit.Open(ctx, db, audit.Options{Redactor: masker{secret}}); !errors.Is(err, audit.ErrNoKeeper) {
			t.Error(err)
		}
		l := open(t, db, options(t))
		if _, err := l.Intent(ctx, audit.Event{}); !errors.Is(err, audit.ErrEvent) {
			t.Error(err)
		}
		first, err := l.Append(ctx, audit.Event{Type: audit.CallDenied})
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range []audit.Event{
			{}, {Type: "x"}, {Type: "X.y"}, {Type: "a b.c"}, {Type: audit.CallIntent}, {Type: audit.CallOutcome},
			{Type: "a.b", ID: "evt_x"}, {Type: "a.b", Detail: []byte(`[1]`)}, {Type: "a.b", Detail: []byte(`{"a":1,"a":2}`)}, {Type: "a.b", Detail: []byte(`{`)},
		} {
			if _, err := l.Append(ctx, ev); !errors.Is(err, audit.ErrEvent) {
				t.Errorf("%.80s: %v", fmt.Sprint(ev), err)
			}
		}
		// One bad event must not take others of its batch with it.
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				ev, want := audit.Event{Type: audit.CallDenied}, error(nil)
				if i%4 == 0 {
					ev.ID, want = first.ID, audit.ErrDuplicate
				}
				if _, err := l.Append(ctx, ev); !errors.Is(err, want) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		hostile := audit.Event{Type: audit.AuthRefused, Agent: "a\x00b\xff", Run: strings.Repeat("é", 10000), Client: strings.Repeat("ü", 300), Reason: "\u2028\"<script>"}
		ref, err := l.Append(ctx, hostile)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := l.Get(ctx, ref.ID)
		if err != nil || rec.Event.Agent != "a\uFFFDb\uFFFD" || len(rec.Event.Client) > 200 || rec.Event.Reason != hostile.Reason {
			t.Errorf("%+v, %v", rec.Event, err)
		}
		mustVerify(t, l)
	})
}

func TestSecretsAreNeverWritten(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		ctx := context.Background()
		db := storagetest.Open(t, dsn)
		l := open(t, db, options(t))
		ev := everyString(t, secret)
		ev.Type, ev.Detail, ev.Digest = "", []byte(`{"`+secret+`":["x\u0068`+secret+`",1.5,{"\u0068`+secret[1:]+`":null}]}`), strings.Repeat("ab", 32)
		r, err := l.Intent(ctx, ev, audit.Payload{Name: "p" + secret, Body: []byte("before " + secret + " after")})
		if err != nil {
			t.Fatal(err)
		}
		l.Outcome(r, ev, audit.Payload{Name: "result", Body: []byte(secret)})
		if err := l.Change(ctx, func(tx *audit.Tx) error {
			ev := ev
			ev.Type = "agent.created"
			tx.Record(ev, audit.Payload{Name: "x", Body: []byte(secret)})
			return storage.Bump(ctx, tx.Tx, "x")
		}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		l = open(t, db, options(t))
		recs, err := l.List(ctx, audit.Query{Payloads: true})
		if err != nil || len(recs) != 3 {
			t.Fatalf("%d records, %v", len(recs), err)
		}
		for _, rec := range recs {
			if bytes.Contains(rec.Raw, []byte(secret)) || strings.Contains(fmt.Sprint(rec), secret) {
				t.Errorf("found in %s", rec.Raw)
			}
			if rec.Event.Digest != ev.Digest || !bytes.Contains(rec.Raw, []byte("[redacted]")) {
				t.Errorf("too much or nothing redacted: %s", rec.Raw)
			}
		}
		if !strings.HasPrefix(dsn, "postgres") {
			for _, f := range []string{dsn, dsn + "-wal"} {
				if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(secret)) {
					t.Errorf("found in %s", f)
				}
			}
		}
	})
}

func TestIntentEndsWithItsContext(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		l := open(t, db, options(t))
		release := hold(t, db)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := l.Intent(ctx, callEvent("call-1"))
		if !errors.Is(err, storage.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		release()
		if err := l.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		l = open(t, db, options(t))
		recs, err := l.List(context.Background(), audit.Query{Call: "call-1", Oldest: true})
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case len(recs) == 0: // it was dropped before it was written
		case len(recs) == 2 && recs[1].Event.Outcome.Status == audit.Cancelled:
		default:
			t.Errorf("an intent nobody waited for: %d records", len(recs))
		}
	})
}

// hold keeps the log from committing until release is called.
func hold(t *testing.T, db *storage.DB) (release func()) {
	t.Helper()
	held, done, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = db.Tx(context.Background(), func(tx *storage.Tx) error {
			if _, err := tx.Exec(context.Background(), `UPDATE lanes SET until = until`); err != nil {
				t.Error(err)
			}
			close(held)
			<-done
			return nil
		})
	}()
	<-held
	return func() { close(done); <-ended }
}

func TestIdentifiersSortByTime(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_000, time.UTC)
	var last string
	for range 5000 {
		next := id.At(id.Event, at)
		if next <= last {
			t.Fatalf("%s after %s", next, last)
		}
		last, at = next, at.Add(time.Microsecond)
	}
}
