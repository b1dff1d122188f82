package server_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// PostgreSQL's own disk is full, or can only be read, or it refuses to write
// for another reason, as a standby does: calls are refused and nothing is
// forwarded while it is so, and let through again by themselves.
func TestFaultPostgresDisk(t *testing.T) {
	pg := placePostgres(t)
	if err := os.Mkdir(pg.data, 0o700); err != nil {
		t.Fatal(err)
	}
	options := "size=160m,mode=0700"
	if pg.as != nil {
		options += fmt.Sprintf(",uid=%d,gid=%d", pg.as.Uid, pg.as.Gid)
	}
	if err := syscall.Mount("tmpfs", pg.data, "tmpfs", 0, options); err != nil {
		t.Skipf("a small file system cannot be mounted here (%v): run as root, as in a container with CAP_SYS_ADMIN", err)
	}
	t.Cleanup(func() { // after the server has ended
		if err := syscall.Unmount(pg.data, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	pg.initialise()
	p := newPlant(t, t.TempDir(), pg.database("faults"))
	p.breaks("full", func() func() {
		free := fill(t, pg.data)
		return func() { free(); pg.again() }
	})
	p.breaks("read-only transactions", func() func() {
		set := func(value string) {
			for _, q := range []string{"SET default_transaction_read_only = off", "ALTER SYSTEM SET default_transaction_read_only = " + value, "SELECT pg_reload_conf()"} {
				if err := pg.query(q); err != nil && !strings.HasPrefix(q, "SET") {
					t.Fatal(err)
				}
			}
		}
		set("on")
		return func() {
			if err := os.Remove(pg.data + "/postgresql.auto.conf"); err != nil {
				t.Error(err)
			}
			if err := pg.query("SELECT pg_reload_conf()"); err != nil {
				t.Error(err)
			}
		}
	})
	if hasStrace(t) {
		p.breaks("read-only file system", func() func() {
			mend := pg.failing("pwrite64,pwritev,ftruncate,fallocate", "EROFS")
			return func() { mend(); pg.again() }
		})
	}
	p.whole()
}

// failing makes system calls of the server's processes fail, of those it has
// and of those it will have, until mend is called.
func (s *pgServer) failing(calls, with string) (mend func()) {
	s.t.Helper()
	pid := s.cmd.Process.Pid
	args := []string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=" + calls, "-e", "inject=" + calls + ":error=" + with, "-p", fmt.Sprint(pid)}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, child := range strings.Fields(string(children)) {
		args = append(args, "-p", child)
	}
	cmd := exec.Command("strace", args...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // it says that it was told to stop
	for end := time.Now().Add(30 * time.Second); !traced(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			<-ended
			s.t.Skip("strace may not attach to processes here, so no system call can be made to fail")
		}
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}
}

// again starts the server if it has given up, and waits until it answers.
func (s *pgServer) again() {
	s.t.Helper()
	if s.cmd != nil && syscall.Kill(s.cmd.Process.Pid, 0) != nil {
		s.cmd = nil
	}
	s.start()
}
