package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var ada = audit.Person("usr_1", "ada")

// said records that agent, in run, said text about subject.
func said(t *testing.T, l *audit.Log, agent, run, subject, text string) string {
	t.Helper()
	ref, err := l.Append(context.Background(), audit.Event{Type: audit.CallDenied, Agent: agent, Run: run}, audit.Payload{Name: "prompt", Body: []byte(text), Subject: subject})
	if err != nil {
		t.Fatal(err)
	}
	return ref.ID
}

// reads returns the prompt of an event, "" if it is gone.
func reads(t *testing.T, l *audit.Log, event string) string {
	t.Helper()
	rec, err := l.Get(context.Background(), event)
	if err != nil || len(rec.Damaged) > 0 {
		t.Fatalf("%v, damaged %v", err, rec.Damaged)
	}
	return string(rec.Payloads["prompt"])
}

// nowhere fails if a file of the database holds any of the texts.
func nowhere(t *testing.T, dsn string, texts ...string) {
	t.Helper()
	if strings.HasPrefix(dsn, "postgres") {
		return
	}
	for _, f := range []string{dsn, dsn + "-wal", dsn + "-shm"} {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if bytes.Contains(b, []byte(text)) {
				t.Errorf("%q stands in %s", text, f)
			}
		}
	}
}

// column returns the bytes of a column of a row.
func column(t *testing.T, db *storage.DB, q string, args ...any) (b []byte) {
	t.Helper()
	if err := db.QueryRow(context.Background(), q, args...).Scan(&b); err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	return b
}

func TestPayloadsStandEncrypted(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		ctx := context.Background()
		db := storagetest.Open(t, dsn)
		l := open(t, db, options(t))
		in := callEvent("call-1")
		r, err := l.Intent(ctx, in, audit.Payload{Name: "prompt", Body: []byte("intent Nordwind 4711")})
		if err != nil {
			t.Fatal(err)
		}
		l.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}}, audit.Payload{Name: "prompt", Body: []byte("outcome Nordwind"), Subject: "Max@Example.com"})
		if err := l.Change(ctx, func(tx *audit.Tx) error {
			tx.Record(audit.Event{Type: "agent.created", Agent: "new"}, audit.Payload{Name: "prompt", Body: []byte("change Nordwind"), Subject: "lisa"})
			return storage.Bump(ctx, tx.Tx, "x")
		}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		l = open(t, db, options(t))
		recs, err := l.List(ctx, audit.Query{Oldest: true, Payloads: true})
		if err != nil || len(recs) != 3 {
			t.Fatalf("%d, %v", len(recs), err)
		}
		for i, want := range []string{"intent Nordwind 4711", "outcome Nordwind", "change Nordwind"} {
			if got := string(recs[i].Payloads["prompt"]); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if rep := mustVerify(t, l); rep.Payloads != 3 {
			t.Errorf("%+v", rep)
		}
		nowhere(t, dsn, "Nordwind", "4711", "example.com", "Example.com", "lisa")
		var plain, keys int
		if err := db.QueryRow(ctx, `SELECT (SELECT count(*) FROM payloads WHERE key = 0 OR salt IS NOT NULL), (SELECT count(*) FROM payload_keys WHERE kind <> 'log')`).Scan(&plain, &keys); err != nil || plain != 0 || keys != 3 {
			t.Errorf("%d in plain, %d keys, %v", plain, keys, err)
		}
	})
}

func TestAnotherKeeperIsRefused(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		l := open(t, db, options(t))
		event := said(t, l, "a", "", "", "text")
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		o := options(t)
		o.Keeper = audittest.Keeper("another")
		if _, err := audit.Open(ctx, db, o); !errors.Is(err, audit.ErrKeeper) {
			t.Fatal(err)
		}
		root := column(t, db, `SELECT sealed FROM payload_keys WHERE kind = 'log'`)
		stolen, err := audittest.Keeper("k").Seal(ctx, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		execute(t, db, `UPDATE payload_keys SET sealed = $1 WHERE kind = 'log'`, stolen)
		if _, err := audit.Open(ctx, db, options(t)); !errors.Is(err, audit.ErrKeeper) {
			t.Errorf("what else the keeper sealed was taken for the log's key: %v", err)
		}
		execute(t, db, `DELETE FROM payload_keys WHERE kind = 'log'`)
		if _, err := audit.Open(ctx, db, options(t)); !errors.Is(err, audit.ErrKeeper) || !strings.Contains(err.Error(), "restore") {
			t.Errorf("a lost key was replaced: %v", err)
		}
		execute(t, db, `INSERT INTO payload_keys (id, kind, name, sealed, created, destroyed) VALUES (1, 'log', '', $1, 0, 0)`, root)
		if got := reads(t, open(t, db, options(t)), event); got != "text" {
			t.Errorf("got %q", got)
		}
	})
}

func TestErase(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		ctx := context.Background()
		db := storagetest.Open(t, dsn)
		l := open(t, db, options(t))
		forgotten := map[audit.Place]bool{}
		l.OnForget(func(_ context.Context, _ *storage.Tx, places []audit.Place) error {
			for _, p := range places {
				forgotten[p] = true
			}
			return nil
		})
		max1, max2 := said(t, l, "a", "run-1", "Max@example.com ", "max one"), said(t, l, "b", "run-2", "max@Example.com", "max two")
		lisa, own, other := said(t, l, "a", "run-1", "lisa", "lisa one"), said(t, l, "a", "run-1", "", "own"), said(t, l, "b", "run-2", "", "other")

		key := column(t, db, `SELECT sealed FROM payload_keys WHERE kind = 'subject' ORDER BY created LIMIT 1`)
		done, err := l.Erase(ctx, ada, "request 17", audit.Erasure{Subject: "max@EXAMPLE.com"})
		if err != nil || done.Keys != 1 || done.Payloads != 2 || len(forgotten) != 2 {
			t.Fatalf("%+v, forgotten %v, %v", done, forgotten, err)
		}
		nowhere(t, dsn, string(key))
		check := func(want ...string) {
			t.Helper()
			for i, event := range []string{max1, max2, lisa, own, other} {
				if got := reads(t, l, event); got != want[i] {
					t.Errorf("payload %d: %q, want %q", i, got, want[i])
				}
			}
		}
		check("", "", "lisa one", "own", "other")
		if rep := mustVerify(t, l); rep.Erased != 2 || rep.Payloads != 3 {
			t.Errorf("%+v", rep)
		}
		rec, err := l.Get(ctx, done.Event)
		if err != nil || rec.Event.Type != audit.PayloadErased || rec.Event.Actor != ada || rec.Event.Reason != "request 17" || strings.Contains(strings.ToLower(string(rec.Raw)), "max@") { // an id may spell max
			t.Errorf("%s, %v", rec.Raw, err)
		}
		later := said(t, l, "a", "run-3", "max@example.com", "max again")
		if got := reads(t, l, later); got != "max again" {
			t.Errorf("what came after the erasure: %q", got)
		}

		if done, err = l.Erase(ctx, ada, "gone", audit.Erasure{Run: "run-1"}); err != nil || done.Keys != 0 || done.Payloads != 3 { // one of them unreadable already
			t.Fatalf("%+v, %v", done, err)
		}
		check("", "", "", "", "other")
		if done, err = l.Erase(ctx, ada, "retired", audit.Erasure{Agent: "b"}); err != nil || done.Keys != 1 || done.Payloads != 1 {
			t.Fatalf("%+v, %v", done, err)
		}
		check("", "", "", "", "")
		if done, err = l.Erase(ctx, ada, "retired", audit.Erasure{Agent: "a"}); err != nil || done.Payloads != 1 {
			t.Fatalf("%+v, %v", done, err)
		}
		if got := reads(t, l, later); got != "" {
			t.Errorf("an agent's payload under a subject's key: %q", got)
		}
		if rep := mustVerify(t, l); rep.Erased != 6 || rep.Payloads != 0 {
			t.Errorf("%+v", rep)
		}
		for what, want := range map[audit.Erasure]error{
			{}: audit.ErrErasure, {Agent: "a", Run: "r"}: audit.ErrErasure, {Subject: " "}: audit.ErrErasure,
			{Subject: "nobody"}: audit.ErrNothing, {Agent: "nobody"}: audit.ErrNothing, {Run: "none"}: audit.ErrNothing, {Run: "run-1"}: audit.ErrNothing,
		} {
			if _, err := l.Erase(ctx, ada, "r", what); !errors.Is(err, want) {
				t.Errorf("%+v: %v", what, err)
			}
		}
		if _, err := l.Erase(ctx, ada, " ", audit.Erasure{Agent: "a"}); !errors.Is(err, audit.ErrReason) {
			t.Error(err)
		}
	})
}

func TestErasureIsAllOrNothing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		l := open(t, db, options(t))
		event := said(t, l, "a", "run-1", "max", "text")
		boom := errors.New("boom")
		fail := 0
		l.OnForget(func(context.Context, *storage.Tx, []audit.Place) error {
			if fail--; fail == 0 {
				return boom
			}
			return nil
		})
		for n := range 2 { // before the change, and inside it
			fail = n + 1
			if _, err := l.Erase(ctx, ada, "r", audit.Erasure{Subject: "max"}); !errors.Is(err, boom) {
				t.Fatal(err)
			}
			if got := reads(t, l, event); got != "text" {
				t.Errorf("half an erasure: %q", got)
			}
		}
		if rep := mustVerify(t, l); rep.Events != 1 || rep.Erased != 0 {
			t.Errorf("%+v", rep)
		}
		if _, err := l.Erase(ctx, ada, "r", audit.Erasure{Subject: "max"}); err != nil || reads(t, l, event) != "" {
			t.Error(err)
		}
	})
}

func TestErasureReachesOtherReplicas(t *testing.T) {
	dsn := storagetest.Postgres(t)
	one, two := open(t, storagetest.Open(t, dsn), options(t)), open(t, storagetest.Open(t, dsn), options(t))
	event := said(t, two, "a", "", "max", "text")
	if _, err := one.Erase(context.Background(), ada, "r", audit.Erasure{Subject: "max"}); err != nil {
		t.Fatal(err)
	}
	if got := reads(t, two, event); got != "" {
		t.Errorf("another replica still reads %q", got)
	}
	for began := time.Now(); reads(t, two, said(t, two, "a", "", "max", "later")) != "later"; time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("another replica still writes under the destroyed key")
		}
	}
	mustVerify(t, one)
}

func TestManyErasuresWhileAppending(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		l := open(t, db, options(t))
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					r, err := l.Intent(ctx, callEvent(fmt.Sprint(w, "-", i)), audit.Payload{Name: "prompt", Body: []byte("x"), Subject: "max"})
					if err != nil {
						t.Error(err)
						return
					}
					l.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}}, audit.Payload{Name: "prompt", Body: []byte("y"), Subject: fmt.Sprint("s", i)})
				}
			})
		}
		for erased, began := int64(0), time.Now(); erased < 20 && time.Since(began) < 20*time.Second; {
			done, err := l.Erase(ctx, ada, "r", audit.Erasure{Subject: "max"})
			if err != nil && !errors.Is(err, audit.ErrNothing) {
				t.Error(err)
			}
			erased += done.Payloads
		}
		close(stop)
		wg.Wait()
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		l = open(t, db, options(t))
		rep := mustVerify(t, l)
		if rep.Erased == 0 {
			t.Errorf("%+v", rep)
		}
		var open int
		if err := db.QueryRow(ctx, `SELECT count(*) FROM lanes WHERE clean_sn <> sn`).Scan(&open); err != nil || open != 0 {
			t.Errorf("%d lanes have intents without outcome, %v", open, err)
		}
	})
}

func TestLevels(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		ctx := context.Background()
		db := storagetest.Open(t, dsn)
		o := options(t)
		o.Redactor = patterns{masker{secret}}
		l := open(t, db, o)
		body := []byte("pattern " + secret + " Nordwind 4111")
		ref, err := l.Append(ctx, audit.Event{Type: audit.CallDenied, Agent: "a"},
			audit.Payload{Name: "full", Body: body, Level: audit.Full}, audit.Payload{Name: "redacted", Body: body, Level: audit.Redacted},
			audit.Payload{Name: "usual", Body: body}, audit.Payload{Name: "digest", Body: body, Level: audit.Digest})
		if err != nil {
			t.Fatal(err)
		}
		rec, err := l.Get(ctx, ref.ID)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"full": "* [redacted] Nordwind 4111", "redacted": "* [redacted] Nordwind #", "usual": "* [redacted] Nordwind #", "digest": ""} {
			if got, there := rec.Payloads[name]; string(got) != want || there != (name != "digest") {
				t.Errorf("%s: %q", name, got)
			}
		}
		for i, want := range []audit.Level{audit.Full, "", "", audit.Digest} {
			if c := rec.Event.Payloads[i]; c.Level != want || c.Size != int64(len(body)) || len(c.Digest) != 64 {
				t.Errorf("%+v", c)
			}
		}
		if _, err := l.Append(ctx, audit.Event{Type: audit.CallDenied}, audit.Payload{Name: "x", Level: "all"}); !errors.Is(err, audit.ErrEvent) {
			t.Error(err)
		}
		if rep := mustVerify(t, l); rep.Payloads != 3 || rep.Unkept != 1 || rep.Erased != 0 {
			t.Errorf("%+v", rep)
		}
		l.Close(ctx)
		nowhere(t, dsn, secret, "Nordwind")
	})
}

// patterns also redacts what only looks like a secret, and personal data.
type patterns struct{ masker }

func (p patterns) Redact(b []byte) []byte {
	return bytes.ReplaceAll(p.masker.Redact(b), []byte("pattern"), []byte("*"))
}
func (p patterns) RedactPersonal(b []byte) []byte {
	return bytes.ReplaceAll(b, []byte("4111"), []byte("#"))
}

// A database from before there were keys is read, verified, and encrypted.
func TestPlainPayloadsAreAdopted(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		ctx := context.Background()
		db := storagetest.Open(t, dsn)
		l := open(t, db, options(t))
		var events []string
		for i := range 70 {
			events = append(events, said(t, l, "a", "", "", fmt.Sprint("Nordwind ", i)))
		}
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		for i, event := range events { // what the version before wrote
			salt := []byte(fmt.Sprintf("%016d", i))
			body := []byte(fmt.Sprint("Nordwind ", i))
			plainly(t, db, event, salt, body)
		}
		rechain(t, db)
		execute(t, db, `DELETE FROM payload_keys`)
		l = open(t, db, options(t))
		if got := reads(t, l, events[3]); got != "Nordwind 3" {
			t.Errorf("got %q", got)
		}
		if rep := mustVerify(t, l); rep.Payloads != 70 {
			t.Errorf("%+v", rep)
		}
		for began, plain := time.Now(), 1; plain > 0; {
			if err := db.QueryRow(ctx, `SELECT count(*) FROM payloads WHERE key = 0`).Scan(&plain); err != nil || time.Since(began) > 20*time.Second {
				t.Fatalf("%d payloads still stand in plain, %v", plain, err)
			}
		}
		if rep := mustVerify(t, l); rep.Payloads != 70 || reads(t, l, events[69]) != "Nordwind 69" {
			t.Errorf("%+v", rep)
		}
		if _, err := l.Erase(ctx, ada, "r", audit.Erasure{Agent: "a"}); err != nil || reads(t, l, events[0]) != "" {
			t.Error(err)
		}
		mustVerify(t, l)
		l.Close(ctx)
		nowhere(t, dsn, "Nordwind")
	})
}
