package seal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestTwoSealersMakeOneTree(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		l := openLog(t, db)
		a, b := open(t, db, l, options(t)), open(t, db, l, options(t))
		done := make(chan struct{})
		var wg sync.WaitGroup
		for _, s := range []*seal.Service{a, b} {
			for range 2 {
				wg.Go(func() {
					for {
						if _, err := s.Step(context.Background()); err != nil {
							t.Error(err)
							return
						}
						select {
						case <-done:
							return
						default:
						}
					}
				})
			}
		}
		record(t, l, 3000)
		close(done)
		wg.Wait()
		drain(t, a, b)
		rep := mustVerify(t, b)
		if rep.Size < 3000 {
			t.Errorf("%+v", rep)
		}
	})
}

// drain seals what is left with whichever holds the lease.
func drain(t *testing.T, all ...*seal.Service) {
	t.Helper()
	for {
		for _, s := range all {
			if _, err := s.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st, err := s.Status(t.Context()); err != nil {
				t.Fatal(err)
			} else if st.Behind == 0 {
				return
			}
		}
	}
}

func TestAnotherTakesOver(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		l := openLog(t, db)
		dead, next := open(t, db, l, options(t)), open(t, db, l, options(t))
		sealAll(t, dead) // it leads, and is never heard of again
		if err := next.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		id := record(t, l, 1)[0]
		began := time.Now()
		for {
			wake := next.Sealed()
			if _, err := next.Prove(t.Context(), id); err == nil {
				break
			} else if !errors.Is(err, seal.ErrNotSealed) {
				t.Fatal(err)
			}
			select {
			case <-wake:
			case <-time.After(100 * time.Millisecond):
			}
			if time.Since(began) > 5*time.Second {
				t.Fatal("nobody took over")
			}
		}
		// The dead one comes back, with what it remembers.
		record(t, l, 5)
		if _, err := dead.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		drain(t, dead, next)
		mustVerify(t, dead)
	})
}

// snapshot copies the log's tables, and returns what puts them back: a restore
// of an old backup.
func snapshot(t *testing.T, db *storage.DB) func() {
	t.Helper()
	tables := []string{"lanes", "events", "payloads", "seal_head", "seal_lanes", "leaves", "tiles", "checkpoints", "cosignatures", "seal_keys"}
	exec := func(q string) {
		t.Helper()
		if err := db.Tx(context.Background(), func(tx *storage.Tx) error { _, err := tx.Exec(context.Background(), q); return err }); err != nil {
			t.Fatal(q, err)
		}
	}
	for _, table := range tables {
		exec("CREATE TABLE old_" + table + " AS SELECT * FROM " + table)
	}
	return func() {
		for _, table := range tables {
			exec("DELETE FROM " + table)
			exec("INSERT INTO " + table + " SELECT * FROM old_" + table)
		}
	}
}

func TestARestoredBackupIsNoticed(t *testing.T) {
	for _, writtenOn := range []bool{false, true} {
		t.Run(fmt.Sprintf("written on %v", writtenOn), func(t *testing.T) {
			storagetest.Each(t, func(t *testing.T, db *storage.DB) { restore(t, db, writtenOn) })
		})
	}
}

func restore(t *testing.T, db *storage.DB, writtenOn bool) {
	ctx := t.Context()
	o := options(t)
	o.HeadFile = filepath.Join(t.TempDir(), "checkpoint")
	var alerts []seal.Alert
	o.Alert = func(_ context.Context, a seal.Alert) { alerts = append(alerts, a) }
	l := openLog(t, db)
	s := open(t, db, l, o)
	ids := record(t, l, 300)
	sealAll(t, s)
	kept, err := s.Prove(ctx, ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Stop(ctx), l.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	back := snapshot(t, db)
	l = openLog(t, db)
	s = open(t, db, l, o)
	lost := record(t, l, 50)
	sealAll(t, s)
	lostProof, err := s.Prove(ctx, lost[0])
	if err != nil {
		t.Fatal(err)
	}
	first, _ := trust(t, s)
	if err := errors.Join(s.Stop(ctx), l.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	back()
	l = openLog(t, db)
	if writtenOn { // by somebody who has no head file
		o2 := o
		o2.HeadFile = ""
		s := open(t, db, l, o2)
		record(t, l, 200)
		drain(t, s)
		if err := s.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, db, l, o)
	before := sizeOf(t, s)
	record(t, l, 3)
	if _, err := s.Step(ctx); !errors.Is(err, seal.ErrRolledBack) {
		t.Fatalf("a restored database is sealed: %v", err)
	}
	if err := s.Blocked(ctx); !errors.Is(err, seal.ErrRolledBack) {
		t.Error(err)
	}
	if _, err := open(t, db, l, options(t)).Step(ctx); !errors.Is(err, seal.ErrRolledBack) {
		t.Errorf("another replica seals it: %v", err)
	}
	if err := s.RotateKey(ctx, person, "x"); !errors.Is(err, seal.ErrRolledBack) {
		t.Error(err)
	}
	if err := s.Accept(ctx, person, " "); !errors.Is(err, seal.ErrReason) {
		t.Error(err)
	}
	if sizeOf(t, s) != before {
		t.Error("the tree grew while blocked")
	}
	if err := s.Accept(ctx, person, "disk died, restored from Sunday"); err != nil {
		t.Fatal(err)
	}
	if err := s.Accept(ctx, person, "again"); !errors.Is(err, seal.ErrNoRollback) {
		t.Error(err)
	}
	drain(t, s)
	mustVerify(t, s)
	if st, err := s.Status(ctx); err != nil || st.Origin != "example.com/log/era-2" || st.Blocked != "" {
		t.Errorf("%+v, %v", st, err)
	}
	afterRestore(t, db, l, o, s, first, kept, lostProof)
}

func afterRestore(t *testing.T, db *storage.DB, l *audit.Log, o seal.Options, s *seal.Service, first tlog.Trust, kept, lost tlog.ProofFile) {
	t.Helper()
	for what, f := range map[string]tlog.ProofFile{"kept": kept, "lost": lost} {
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tlog.VerifyProof(b, first); err != nil {
			t.Errorf("the proof of a %s event does not verify any more: %v", what, err)
		}
	}
	recs, err := l.List(t.Context(), audit.Query{Types: []audit.Type{"log.rollback_found", "log.rollback_accepted"}})
	if err != nil || len(recs) != 2 {
		t.Fatalf("%d events, %v", len(recs), err)
	}
	f, err := s.Prove(t.Context(), recs[0].Event.ID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if shown, err := tlog.VerifyProof(b, first); err != nil || shown.Origin != "example.com/log/era-2" {
		t.Errorf("from the first key: %+v, %v", shown, err)
	}
	// The acceptance holds at the next start.
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = open(t, db, l, o)
	record(t, l, 1)
	drain(t, s)
}

func sizeOf(t *testing.T, s *seal.Service) int64 {
	t.Helper()
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.Size
}

func TestABadHeadFileIsNotOverwritten(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	l := openLog(t, db)
	o := options(t)
	o.HeadFile = filepath.Join(t.TempDir(), "checkpoint")
	for name, text := range map[string]string{"garbage": "what\n", "torn": "example.com/log\n12\n", "large": strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(o.HeadFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.New(t.Context(), db, l, o); !errors.Is(err, seal.ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One of another log.
	otherDB := storagetest.Open(t, storagetest.SQLite(t))
	l2 := openLog(t, otherDB)
	if err := os.Remove(o.HeadFile); err != nil {
		t.Fatal(err)
	}
	drain(t, open(t, otherDB, l2, o))
	s := open(t, db, l, o)
	record(t, l, 1)
	if _, err := s.Step(t.Context()); !errors.Is(err, seal.ErrRolledBack) {
		t.Fatal(err)
	}
	if err := s.Accept(t.Context(), person, "a new database on purpose"); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	drain(t, open(t, db, l, o))
}

func TestKeysRotate(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		l := openLog(t, db)
		a, b := open(t, db, l, options(t)), open(t, db, l, options(t))
		first, _ := trust(t, a)
		ids := record(t, l, 10)
		drain(t, a)
		old, err := a.Prove(t.Context(), ids[0])
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := b.RotateKey(t.Context(), person, "yearly"); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, record(t, l, 10)...)
			drain(t, a, b)
			k, err := a.Keys(t.Context())
			if err != nil || len(k.Rotations) != i+1 || k.First != first.Key || k.Key == k.First {
				t.Fatalf("%+v, %v", k, err)
			}
		}
		mustVerify(t, a)
		for _, id := range ids {
			f, err := a.Prove(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			f2, err := f.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tlog.VerifyProof(f2, first); err != nil {
				t.Error(err)
			}
		}
		b1, err := old.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tlog.VerifyProof(b1, first); err != nil {
			t.Errorf("a proof from before the rotation: %v", err)
		}
		recs, err := l.List(t.Context(), audit.Query{Types: []audit.Type{"log.key_created", "log.key_rotated"}, Oldest: true})
		if err != nil || len(recs) != 4 || strings.Contains(string(recs[1].Raw), "redacted") || !strings.Contains(string(recs[0].Raw), first.Key) {
			t.Errorf("%v, %d events: %s", err, len(recs), recs[1].Raw)
		}
	})
}

func TestWhatWasChangedIsFound(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		l := openLog(t, db)
		s := open(t, db, l, options(t))
		ids := record(t, l, 600)
		drain(t, s)
		if err := s.RotateKey(t.Context(), person, "r"); err != nil {
			t.Fatal(err)
		}
		record(t, l, 10)
		drain(t, s)
		flip := func(q string, args ...any) { change(t, db, q, args...) }
		for name, c := range map[string]struct{ table, column, where, says string }{
			"record":     {"events", "record", "id = '" + ids[17] + "'", "not what was sealed"},
			"leaf":       {"tiles", "bytes", "level = 0 AND idx = 1", "not what was sealed"},
			"inner":      {"tiles", "bytes", "level = 1 AND idx = 0", "tile/1/000"},
			"head":       {"seal_head", "root", "name = 'log'", "head does not have the root"},
			"checkpoint": {"checkpoints", "root", "size = (SELECT min(size) FROM checkpoints)", "columns differ"},
		} {
			var was []byte
			if err := db.QueryRow(t.Context(), "SELECT "+c.column+" FROM "+c.table+" WHERE "+c.where).Scan(&was); err != nil {
				t.Fatal(name, err)
			}
			is := []byte(string(was))
			is[len(is)/2] ^= 1
			flip("UPDATE "+c.table+" SET "+c.column+" = $1 WHERE "+c.where, is)
			rep, err := s.Verify(t.Context(), nil)
			if err != nil || len(rep.Problems) == 0 || !strings.Contains(fmt.Sprint(rep.Problems), c.says) {
				t.Errorf("%s: %v, %v", name, rep.Problems, err)
			}
			if name == "record" {
				if _, err := s.Prove(t.Context(), ids[17]); !errors.Is(err, seal.ErrBroken) {
					t.Errorf("a changed record is proven: %v", err)
				}
			}
			flip("UPDATE "+c.table+" SET "+c.column+" = $1 WHERE "+c.where, was)
		}
		mustVerify(t, s)
		flip("DELETE FROM events WHERE id = '" + ids[30] + "'")
		if rep, err := s.Verify(t.Context(), nil); err != nil || len(rep.Problems) == 0 || !strings.Contains(rep.Problems[0].Message, "missing") {
			t.Errorf("%+v, %v", rep, err)
		}
		flip("DELETE FROM tiles WHERE level = 0 AND idx = 0")
		if rep, err := s.Verify(t.Context(), nil); err != nil || len(rep.Problems) == 0 || !strings.Contains(rep.Problems[0].Message, "tile/0/000 is missing") {
			t.Errorf("%+v, %v", rep, err)
		}
	})
}

func change(t *testing.T, db *storage.DB, q string, args ...any) {
	t.Helper()
	if err := db.Tx(t.Context(), func(tx *storage.Tx) error { return tx.ExecOne(t.Context(), q, args...) }); err != nil {
		t.Fatal(q, err)
	}
}

func TestNothingWrongIsSealed(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		l := openLog(t, db)
		s := open(t, db, l, options(t))
		drain(t, s)
		size := sizeOf(t, s)
		ids := record(t, l, 20)
		change(t, db, `UPDATE events SET record = $1 WHERE id = $2`, []byte(`{"forged":true}`), ids[5])
		if _, err := s.Step(t.Context()); !errors.Is(err, seal.ErrBroken) || !strings.Contains(err.Error(), "chain") {
			t.Errorf("a changed record was sealed: %v", err)
		}
		change(t, db, `DELETE FROM events WHERE id = $1`, ids[5])
		if _, err := s.Step(t.Context()); !errors.Is(err, seal.ErrBroken) || !strings.Contains(err.Error(), "missing") {
			t.Errorf("a gap was sealed: %v", err)
		}
		if got := sizeOf(t, s); got != size {
			t.Errorf("the tree grew to %d", got)
		}
	})
}
