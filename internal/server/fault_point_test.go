package server_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
)

// pointEnv makes a server on SQLite, which runs in this test binary and in no
// other, die at a place in its writing: "TABLE OPERATION CONDITION:N:WHEN". It
// dies in the N-th transaction that does this, WHEN "within" it or when it is
// "committed" and nobody has been told.
const pointEnv = "COUNTERSIGN_TEST_DIE_AT"

// dieAt arms the place that pointEnv names, with what SQLite offers to anybody:
// a temporary trigger, a function and a commit hook.
func dieAt() {
	place := os.Getenv(pointEnv)
	if place == "" {
		return
	}
	parts := strings.Split(place, ":")
	left, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		panic(err)
	}
	var n atomic.Int64
	n.Store(left)
	var reached atomic.Bool // the transaction in hand is the one
	sqlite.MustRegisterScalarFunction("die_here", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		if reached.Load() || n.Add(-1) > 0 {
			return nil, nil
		}
		if parts[2] == "within" {
			die()
		}
		reached.Store(true)
		return nil, nil
	})
	var once sync.Once
	sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, dsn string) error {
		if !strings.Contains(dsn, "_txlock=immediate") {
			return nil // readers
		}
		table, when, _ := strings.Cut(parts[0], " ")
		operation, when, _ := strings.Cut(when, " ")
		if when != "" {
			when = "WHEN " + when
		}
		_, err := conn.ExecContext(context.Background(), fmt.Sprintf(`CREATE TEMP TRIGGER die_at AFTER %s ON main.%s %s BEGIN SELECT die_here(); END`, operation, table, when), nil)
		if err != nil {
			return err
		}
		hooks, ok := conn.(sqlite.HookRegisterer)
		if !ok {
			return errors.New("no commit hooks")
		}
		hooks.RegisterCommitHook(func() int32 {
			if reached.Load() {
				once.Do(dieAtSync)
			}
			return 0
		})
		return nil
	})
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// dieAtSync lets strace kill this process at its next sync: the pages of the
// commit are written, so the transaction is there after the death, and nobody
// has been told.
func dieAtSync() {
	_ = unix.Prctl(unix.PR_SET_PTRACER, ^uintptr(0), 0, 0, 0) // a kernel that does not ask for it has no such thing
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:signal=KILL", "-p", strconv.Itoa(os.Getpid()))
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "strace:", err)
		os.Exit(3)
	}
	for end := time.Now().Add(20 * time.Second); !traced(os.Getpid()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			fmt.Fprintln(os.Stderr, "strace does not attach")
			os.Exit(3)
		}
	}
}

// traced reports whether every thread of a process has a tracer.
func traced(pid int) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
		if err == nil && strings.Contains(string(b), "TracerPid:\t0\n") {
			return false
		}
	}
	return len(tasks) > 0
}
