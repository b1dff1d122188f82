package server_test

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// disk mounts a small file system and returns where, or skips the test where
// that is not allowed.
func disk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("a small file system cannot be mounted here (%v): run as root, as in a container with CAP_SYS_ADMIN", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the room there is and returns what gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// failing makes system calls of a running process fail and returns what ends
// that.
func failing(t *testing.T, p *process, calls, with string) (mend func()) {
	t.Helper()
	pid := p.cmd.Process.Pid
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+calls+":error="+with, "-p", strconv.Itoa(pid))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); !traced(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Skip("strace may not attach to processes here, so no system call can be made to fail")
		}
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it says that it was told to stop
	}
}

// A disk that is full, that does not sync or that can only be read: calls are
// refused and nothing is forwarded while it is so, and let through again by
// themselves.
func TestFaultDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	dir := disk(t)
	data := filepath.Join(dir, "data")
	p := newPlant(t, data, filepath.Join(data, "countersign.db"))
	rounds := 1
	if long() {
		rounds = 5
	}
	for range rounds {
		p.breaks("full", func() func() { return fill(t, dir) })
		if !hasStrace(t) {
			continue
		}
		p.breaks("sync fails", func() func() { return failing(t, p.process, "fsync,fdatasync", "EIO") })
		p.breaks("read-only", func() func() { return failing(t, p.process, "pwrite64,ftruncate,fsync,fdatasync", "EROFS") })
		p.breaks("writes fail", func() func() { return failing(t, p.process, "pwrite64", "EIO") })
		p.breaks("killed while the sync fails", func() func() {
			mend := failing(t, p.process, "fsync,fdatasync", "EIO")
			return func() {
				p.process.kill()
				mend()
				p.again()
			}
		})
	}
	p.startsReadOnly(dir)
	p.whole()
}

// breaks breaks the disk under load and mends it.
func (p *plant) breaks(name string, fault func() (mend func())) {
	t := p.t
	t.Run(name, func(t *testing.T) {
		p.t = t
		p.mustCall()
		stop := p.load(3)
		mend := fault()
		p.refused(60 * time.Second)
		p.notReady(30 * time.Second)
		stop()
		mend()
		p.recovers(60 * time.Second)
	})
	p.t = t
}

// notReady waits until the server says that it is not ready: on a full disk a
// write may still work now and then, and then it is.
func (p *plant) notReady(within time.Duration) {
	p.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		status, body := p.ready()
		if status == http.StatusServiceUnavailable {
			return
		}
		if time.Now().After(end) {
			p.t.Errorf("it says that it is ready: %d %s", status, body)
			return
		}
	}
}

// startsReadOnly checks that a start on a disk that is mounted read-only is
// refused with an error that names the place, and works when it is not.
func (p *plant) startsReadOnly(dir string) {
	p.t.Helper()
	p.process.stop(p.t)
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		p.t.Fatal(err)
	}
	if q, err := launch(p.life, p.data, p.dsn, p.token); err == nil {
		q.kill()
		p.t.Error("it starts on a disk that it cannot write")
	} else if q.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(q.stderr.String(), "read-only file system") {
		p.t.Errorf("exit code %d: %s", q.cmd.ProcessState.ExitCode(), q.stderr)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""); err != nil {
		p.t.Fatal(err)
	}
	p.again()
	p.recovers(30 * time.Second)
}
