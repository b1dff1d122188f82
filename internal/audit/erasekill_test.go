package audit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// eraserVictim records payloads, erases and expires them until it is killed. It
// says "kept EVENT" for what it was told is durable and "erased EVENT" when the
// payload of that is gone for ever.
func eraserVictim(dsn string) error {
	ctx := context.Background()
	db, err := storage.Open(ctx, dsn)
	if err != nil {
		return err
	}
	old := func() time.Time { return time.Now().Add(-401 * day) }
	l, err := audit.Open(ctx, db, audit.Options{Redactor: masker{secret}, Keeper: audittest.Keeper("k"), Lanes: 2})
	if err != nil {
		return err
	}
	l.OnForget(func(context.Context, *storage.Tx, []audit.Place) error { return nil })
	errs := make(chan error)
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d-%d-%d", time.Now().UnixNano(), w, i)
				ev := audit.Event{Type: audit.CallDenied, Agent: "agent-" + name, Run: "run-" + name}
				if w == 3 {
					ev.Time = old()
				}
				ref, err := l.Append(ctx, ev, audit.Payload{Name: "prompt", Body: []byte("x"), Subject: []string{"max-" + name, "", ""}[w%3]})
				if err != nil {
					errs <- err
					return
				}
				fmt.Println("kept", ref.ID)
				what := []audit.Erasure{{Subject: "max-" + name}, {Agent: ev.Agent}, {Run: ev.Run}}[w%3]
				if w == 3 {
					_, err = l.Expire(ctx)
				} else {
					_, err = l.Erase(ctx, ada, "r", what)
				}
				if err != nil && !errors.Is(err, audit.ErrNothing) {
					errs <- err
					return
				}
				if w != 3 {
					fmt.Println("erased", ref.ID)
				}
			}
		}()
	}
	return <-errs
}

func TestKilledErasuresAreWholeOrNot(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a process many times")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		said := map[string]map[string]bool{"kept": {}, "erased": {}}
		for range kills / 2 {
			for line := range strings.Lines(runAndKill(t, dsn, 10+rand.IntN(60), "erase")) {
				if verb, event, ok := strings.Cut(strings.TrimSpace(line), " "); ok && said[verb] != nil {
					said[verb][event] = true
				}
			}
		}
		db := storagetest.Open(t, dsn)
		execute(t, db, `UPDATE lanes SET until = 0`)
		l := open(t, db, options(t))
		rep := mustVerify(t, l) // whatever is gone has an event that says why
		for event := range said["erased"] {
			if got := reads(t, l, event); got != "" {
				t.Errorf("%s was erased and reads %q", event, got)
			}
		}
		for event := range said["kept"] {
			if got := reads(t, l, event); got != "" && got != "x" {
				t.Errorf("%s reads %q", event, got)
			}
		}
		if len(said["erased"]) == 0 || rep.Erased == 0 {
			t.Error("nothing was erased: the test shows nothing")
		}
		t.Logf("%d events, %d kept, %d gone, %d of them acknowledged", rep.Events, rep.Payloads, rep.Erased, len(said["erased"]))
	})
}

// A database that was made before there were keys, holds and later tables is
// brought up to date and loses nothing.
func TestUpgrade(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, dsn)
		l := open(t, db, options(t))
		event := said(t, l, "a", "run-1", "", "before")
		if err := l.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		plainly(t, db, event, []byte("0123456789abcdef"), []byte("before"))
		rechain(t, db)
		down := []string{`DROP TABLE payload_holds`, `DROP TABLE payload_retention`, `DROP TABLE search_state`,
			`DROP INDEX payloads_key`, `ALTER TABLE payloads DROP COLUMN key`, `DROP TABLE payload_keys`, `DELETE FROM goose_db_version WHERE version_id IN (16, 17, 18, 140)`}
		if db.Dialect() == storage.Postgres {
			down = append(down, `ALTER TABLE search_events DROP COLUMN blind`, `ALTER TABLE search_events RENAME COLUMN place TO doc`)
		} else {
			down = append(down, `DROP TABLE search_values`, `INSERT INTO search_text (rowid, words) VALUES (1, 'before')`)
		}
		for _, q := range down {
			execute(t, db, q)
		}
		db.Close()
		db = storagetest.Open(t, dsn)
		l = open(t, db, options(t))
		if got := reads(t, l, event); got != "before" {
			t.Errorf("got %q", got)
		}
		if rep := mustVerify(t, l); rep.Payloads != 1 {
			t.Errorf("%+v", rep)
		}
	})
}
