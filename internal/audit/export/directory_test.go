package export_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit/export"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }

func (c *clock) move(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.at = c.at.Add(d) }

func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestFilesAreHandedOverByAgeAndBySize(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h, c := open(t, db), &clock{at: time.Now()}
		h.now = c.now
		dir := filepath.Join(t.TempDir(), "a", "lake")
		h.follow(export.Target{Name: "lake", Kind: export.OCSF, Dir: dir, RotateBytes: 5_000, RotateAfter: time.Hour})
		h.fill(1)
		h.caughtUp("lake")
		if n := len(files(t, dir, "*.jsonl")); n != 0 {
			t.Errorf("%d files, and no hour has passed", n)
		}
		c.move(2 * time.Hour)
		until(t, "a file by age", func() bool { return len(files(t, dir, "*.jsonl")) == 1 })
		if info, err := os.Stat(files(t, dir, "*.jsonl")[0]); err != nil || info.Mode().Perm()&0o007 != 0 {
			t.Errorf("%v %v", info.Mode(), err)
		}
		for range 8 {
			h.fill(3)
			h.caughtUp("lake")
		}
		until(t, "files by size", func() bool { return len(files(t, dir, "*.jsonl")) >= 3 })
		c.move(2 * time.Hour)
		until(t, "the rest", func() bool { return len(files(t, dir, ".lake-*")) == 0 })
		if got := fileEvents(t, dir); len(got) != len(h.all()) || !contains(got, h.all()) {
			t.Errorf("%d lines of %d events", len(got), len(h.all()))
		}
		for _, name := range files(t, dir, "*.jsonl") {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(b)) {
				if p := readSchema(t).check([]byte(line)); len(p) > 0 {
					t.Errorf("%v in %s", p, line)
				}
			}
		}
	})
}

func TestADirectoryThatCannotBeWritten(t *testing.T) {
	h := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	dir := filepath.Join(t.TempDir(), "lake")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.fill(3)
	h.follow(export.Target{Name: "lake", Kind: export.OCSF, Dir: dir, RotateAfter: time.Nanosecond})
	until(t, "failing", func() bool { return h.status("lake").State == export.Failing })
	if st := h.status("lake"); !strings.Contains(st.Error, dir) || st.Behind == 0 {
		t.Errorf("%+v", st)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	h.caughtUp("lake")
	until(t, "handed over", func() bool { return contains(fileEvents(t, dir), h.all()) })
}

// A file that a shipper took away is not missed; one that was open is, and
// someone hears of it. What a restored database would write over stays.
func TestFilesThatOthersTouch(t *testing.T) {
	h := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	dir := t.TempDir()
	target := export.Target{Name: "lake", Kind: export.OCSF, Dir: dir, RotateAfter: time.Hour}
	h.follow(target)
	h.fill(3)
	h.caughtUp("lake")
	h.s.Stop(context.Background())
	parts := files(t, dir, ".lake-*.part")
	if len(parts) != 1 {
		t.Fatalf("%v", parts)
	}
	if err := os.Remove(parts[0]); err != nil {
		t.Fatal(err)
	}
	target.RotateAfter = time.Nanosecond
	h.follow(target)
	until(t, "told that a file is gone", func() bool { return h.told("export.rejected", false) })
	foreign := filepath.Join(dir, "lake-000000000002.jsonl")
	if len(fileEvents(t, dir)) == 0 { // the next is number 2
		if err := os.WriteFile(foreign, []byte("of another history\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		h.fill(2)
		until(t, "it says so", func() bool { return strings.Contains(h.status("lake").Error, "other content") })
		if b, err := os.ReadFile(foreign); err != nil || string(b) != "of another history\n" {
			t.Errorf("written over: %q %v", b, err)
		}
		if err := os.Remove(foreign); err != nil {
			t.Fatal(err)
		}
	}
	h.caughtUp("lake")
	if err := h.s.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// Targets whose names begin alike may share a directory.
func TestTwoTargetsInOneDirectory(t *testing.T) {
	h := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	dir := t.TempDir()
	other := export.Target{Name: "lake-2", Kind: export.OCSF, Dir: dir, RotateAfter: time.Hour}
	h.follow(other)
	h.fill(3)
	h.caughtUp("lake-2")
	if err := h.s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.follow(export.Target{Name: "lake", Kind: export.OCSF, Dir: dir, RotateAfter: time.Nanosecond})
	h.caughtUp("lake")
	if err := h.s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	other.RotateAfter = time.Nanosecond
	h.follow(other)
	h.caughtUp("lake-2")
	until(t, "handed over", func() bool { return len(files(t, dir, ".lake-2-*")) == 0 })
	if h.told("export.rejected", false) {
		t.Error("one target took the other's file")
	}
}
