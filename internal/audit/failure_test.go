package audit_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func execute(t *testing.T, db *storage.DB, q string, args ...any) {
	t.Helper()
	if err := db.Tx(context.Background(), func(tx *storage.Tx) error {
		_, err := tx.Exec(context.Background(), q, args...)
		return err
	}); err != nil {
		t.Fatalf("%s: %v", q, err)
	}
}

// types returns the types of a call's events, with the status of outcomes.
func types(t *testing.T, l *audit.Log, call string) string {
	t.Helper()
	recs, err := l.List(context.Background(), audit.Query{Call: call, Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range recs {
		s := string(r.Event.Type)
		if r.Event.Outcome != nil {
			s += ":" + r.Event.Outcome.Status
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func TestAFencedHolderWritesNothingMore(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		o := options(t)
		o.Lanes = 1
		l := open(t, db, o)
		r, err := l.Intent(ctx, callEvent("call-1"))
		if err != nil {
			t.Fatal(err)
		}
		// Another process takes the lane, and is gone again at once.
		execute(t, db, `UPDATE lanes SET holder = 'thief', epoch = epoch + 1, until = 1 WHERE lane = 1`)
		var head int64
		if err := db.QueryRow(ctx, `SELECT sn FROM lanes WHERE lane = 1`).Scan(&head); err != nil {
			t.Fatal(err)
		}
		l.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}})
		if _, err := l.Append(ctx, audit.Event{Type: audit.CallDenied}); err != nil {
			t.Fatalf("after losing its lane the log works on another: %v", err)
		}
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		l = open(t, db, o)
		if got := types(t, l, "call-1"); got != "call.intent call.outcome:unknown call.settled:succeeded" && got != "call.intent call.settled:succeeded call.outcome:unknown" {
			t.Errorf("got %s", got)
		}
		mustVerify(t, l)
	})
}

func TestTwoReplicasShareTheLanes(t *testing.T) {
	ctx := context.Background()
	db := storagetest.Open(t, storagetest.Postgres(t))
	a, b := open(t, db, options(t)), open(t, db, options(t))
	var wg sync.WaitGroup
	for _, l := range []*audit.Log{a, b, a, b} {
		wg.Go(func() {
			for range 50 {
				if _, err := l.Append(ctx, audit.Event{Type: audit.CallDenied}); err != nil {
					t.Error(err)
				}
				if err := l.Change(ctx, func(tx *audit.Tx) error {
					tx.Record(audit.Event{Type: "agent.created"})
					return storage.Bump(ctx, tx.Tx, "x")
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if rep := mustVerify(t, b); rep.Events != 400 || rep.Lanes != 9 {
		t.Errorf("%+v", rep)
	}
	if err := errors.Join(a.Close(ctx), b.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	if rep := mustVerify(t, open(t, db, options(t))); rep.Lanes != 9 {
		t.Errorf("a restart made lanes: %d", rep.Lanes)
	}
}

func TestAClosedStoreIsRefusedQuickly(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		l := open(t, db, options(t))
		r, err := l.Intent(context.Background(), callEvent("call-1"))
		if err != nil {
			t.Fatal(err)
		}
		db.Close()
		for range 3 {
			began := time.Now()
			if _, err := l.Intent(context.Background(), callEvent("call-2")); !errors.Is(err, storage.ErrUnavailable) {
				t.Fatal(err)
			}
			if d := time.Since(began); d > 3*time.Second {
				t.Errorf("took %v", d)
			}
		}
		l.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}})
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		if err := l.Close(ctx); !errors.Is(err, audit.ErrClosed) {
			t.Errorf("closed with an outcome unwritten: %v", err)
		}
	})
}

// outage makes the store fail and returns what makes it work again.
func outage(t *testing.T, db *storage.DB, dsn string) (repair func()) {
	t.Helper()
	ctx := context.Background()
	if db.Dialect() == storage.SQLite {
		set := func(v string) {
			if _, err := db.Writer().ExecContext(ctx, `PRAGMA query_only = `+v); err != nil {
				t.Fatal(err)
			}
		}
		set("ON")
		return func() { set("OFF") }
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	u.Path = "/postgres"
	conn, err := pgx.Connect(ctx, u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(ctx) })
	allow := func(v string) {
		if _, err := conn.Exec(ctx, `ALTER DATABASE `+name+` ALLOW_CONNECTIONS `+v); err != nil {
			t.Fatal(err)
		}
	}
	allow("false")
	if _, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, name); err != nil {
		t.Fatal(err)
	}
	return func() { allow("true") }
}

func TestTheLogRecoversWithItsStore(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		ctx := context.Background()
		db := storagetest.Open(t, dsn)
		l := open(t, db, options(t))
		r, err := l.Intent(ctx, callEvent("call-1"))
		if err != nil {
			t.Fatal(err)
		}
		repair := outage(t, db, dsn)
		l.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Failed}}) // returns at once
		refused := 0
		for range 20 {
			began := time.Now()
			if _, err := l.Intent(ctx, callEvent("call-2")); err != nil {
				refused++
				if !errors.Is(err, storage.ErrUnavailable) {
					t.Fatal(err)
				}
			}
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
		}
		if refused != 20 {
			t.Fatalf("only %d of 20 refused", refused)
		}
		repair()
		eventually(t, func() bool {
			_, err := l.Append(ctx, audit.Event{Type: audit.CallDenied})
			return err == nil
		})
		eventually(t, func() bool { return types(t, l, "call-1") == "call.intent call.outcome:failed" })
		if got := types(t, l, "call-2"); got != "" {
			t.Errorf("a refused intent is in the log: %s", got)
		}
		mustVerify(t, l)
	})
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it never came")
		}
	}
}

func TestTerminatedBackendsAreNotNoticed(t *testing.T) {
	ctx := context.Background()
	db := storagetest.Open(t, storagetest.Postgres(t))
	l := open(t, db, options(t))
	for range 5 {
		if _, err := db.Pool().Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if _, err := l.Append(ctx, audit.Event{Type: audit.CallDenied}); err != nil {
				t.Error(err)
			}
		}
	}
	mustVerify(t, l)
}

// wire stands between the log and PostgreSQL and can lose answers.
type wire struct {
	marker atomic.Pointer[string] // an answer to a request that holds it is lost
	closed atomic.Bool            // after that, nothing gets through
	stay   bool                   // closes the wire when an answer is lost
}

func (w *wire) listen(t *testing.T, to string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go w.carry(c, to)
		}
	}()
	return ln.Addr().String()
}

func (w *wire) carry(client net.Conn, to string) {
	defer client.Close()
	if w.closed.Load() {
		return
	}
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	var lose atomic.Bool
	go func() {
		defer server.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := client.Read(b)
			if err != nil || w.closed.Load() {
				return
			}
			if m := w.marker.Load(); m != nil && strings.Contains(string(b[:n]), *m) {
				lose.Store(true)
				w.marker.Store(nil)
			}
			if _, err := server.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := server.Read(b)
		if err != nil || w.closed.Load() {
			return
		}
		if lose.Load() {
			w.closed.Store(w.stay)
			io.Copy(io.Discard, io.LimitReader(server, 0))
			return
		}
		if _, err := client.Write(b[:n]); err != nil {
			return
		}
	}
}

func TestALostAnswerIsNotALostOrDoubledEvent(t *testing.T) {
	for _, c := range []struct {
		name string
		stay bool // the outage lasts longer than the caller waits
		want string
	}{
		{"found again at once", false, "call.intent call.outcome:succeeded"},
		{"found after the caller was refused", true, "call.intent call.outcome:cancelled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := context.Background()
			u, err := url.Parse(storagetest.Postgres(t))
			if err != nil {
				t.Fatal(err)
			}
			w := &wire{stay: c.stay}
			u.Host = w.listen(t, u.Host)
			l := open(t, storagetest.Open(t, u.String()), options(t))
			for range 10 { // every lane has prepared its statements
				if _, err := l.Append(ctx, audit.Event{Type: audit.CallDenied}); err != nil {
					t.Fatal(err)
				}
			}
			marker := "call-lost"
			w.marker.Store(&marker)
			r, err := l.Intent(ctx, callEvent("call-lost"))
			if c.stay != (err != nil) || c.stay == r.For("call-lost") {
				t.Fatalf("%v", err)
			}
			w.closed.Store(false)
			if !c.stay {
				l.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}})
			}
			eventually(t, func() bool {
				_, err := l.Append(ctx, audit.Event{Type: audit.CallDenied})
				return err == nil && types(t, l, "call-lost") == c.want
			})
			mustVerify(t, l)
		})
	}
}

func TestFollow(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		l := open(t, db, options(t))
		add := func() {
			if _, err := l.Append(ctx, audit.Event{Type: audit.CallDenied}, audit.Payload{Name: "arguments", Body: []byte("x")}); err != nil {
				t.Error(err)
			}
		}
		for range 300 {
			add()
		}
		at, n := audit.Cursor{}, 0
		stop := errors.New("enough")
		go func() {
			for range 300 {
				add()
			}
		}()
		err := l.Follow(ctx, nil, func(r audit.Record) error {
			if r.SN != at[r.Lane]+1 || string(r.Payloads["arguments"]) != "x" {
				t.Errorf("lane %d: %d after %d", r.Lane, r.SN, at[r.Lane])
			}
			at[r.Lane] = r.SN
			if n++; n == 600 {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) {
			t.Fatal(err)
		}
		got := 0
		head, err := l.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		add()
		if err := l.Tail(ctx, head, func(r audit.Record) error { got++; return stop }); !errors.Is(err, stop) || got != 1 {
			t.Errorf("%d, %v", got, err)
		}
		ended := make(chan error)
		go func() { ended <- l.Follow(ctx, head, func(audit.Record) error { return nil }) }()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
