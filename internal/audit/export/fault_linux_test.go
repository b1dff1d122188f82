package export_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit/export"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// smallDisk mounts a file system of a megabyte and returns where, or skips the
// test where that is not allowed.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system cannot be mounted here (%v): run as root, as in a container with CAP_SYS_ADMIN", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A directory on a disk that is full: the export waits, says so, and goes on by
// itself. Every event is there once, in a whole line.
func TestFaultExportDiskFull(t *testing.T) {
	h := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	dir := smallDisk(t)
	h.follow(export.Target{Name: "lake", Kind: export.OCSF, Dir: dir, RotateBytes: 20_000, RotateAfter: time.Nanosecond})
	h.fill(3)
	h.caughtUp("lake")
	for round := range 3 {
		filler := filepath.Join(dir, "filler")
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, 4<<10))
		}
		f.Close()
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		h.fill(10)
		until(t, "failing", func() bool {
			st := h.status("lake")
			return st.State == export.Failing && strings.Contains(st.Error, "no space left") && st.Behind > 0
		})
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		h.caughtUp("lake")
		t.Logf("round %d: %d events", round, len(h.all()))
	}
	h.wholeFiles(t, dir)
}

// Files that cannot be synced do not count: what was not synced is written
// again. The log is on PostgreSQL, so that it is the export alone that syncs.
func TestFaultExportSync(t *testing.T) {
	h := open(t, storagetest.Open(t, storagetest.Postgres(t)))
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed (apt-get install strace), so no sync can be made to fail")
	}
	dir := t.TempDir()
	h.follow(export.Target{Name: "lake", Kind: export.OCSF, Dir: dir, RotateBytes: 20_000, RotateAfter: time.Nanosecond})
	h.fill(3)
	h.caughtUp("lake")
	mend := failingSync(t)
	h.fill(10)
	until(t, "failing", func() bool {
		st := h.status("lake")
		return st.State == export.Failing && strings.Contains(st.Error, "input/output error")
	})
	mend()
	h.caughtUp("lake")
	h.wholeFiles(t, dir)
}

// failingSync makes every sync of this process fail until mend is called.
func failingSync(t *testing.T) (mend func()) {
	t.Helper()
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-p", strconv.Itoa(os.Getpid()))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it says that it was told to stop
	}
	probe, err := os.Create(filepath.Join(t.TempDir(), "probe"))
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	for end := time.Now().Add(30 * time.Second); probe.Sync() == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			stop()
			t.Skip("strace may not attach to processes here, so no sync can be made to fail")
		}
	}
	return stop
}

// wholeFiles waits until every file is handed over and they hold every event,
// once: what is recorded about the recovery itself comes a moment later.
func (h *house) wholeFiles(t *testing.T, dir string) {
	t.Helper()
	until(t, "the files hold every event once", func() bool {
		got := fileEvents(t, dir)
		return len(files(t, dir, ".lake-*.part")) == 0 && len(got) == len(h.all()) && contains(got, h.all())
	})
}
