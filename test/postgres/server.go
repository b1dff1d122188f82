package postgres

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Password is the superuser's; her name is "super".
const Password = "the-superusers-own-7h2k9"

// Server is a running server on 127.0.0.1 with scram-sha-256 for everybody.
type Server struct {
	Port int
	DSN  string // of the superuser

	dir string
	cmd *exec.Cmd
}

var shared struct {
	sync.Once
	server *Server
	err    error
}

// Shared returns the server of this test process, started on first use. Stop it
// from TestMain.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	shared.Do(func() { shared.server, shared.err = start() })
	if shared.err != nil {
		tb.Skipf("no PostgreSQL server can be started: %v", shared.err)
	}
	return shared.server
}

// Stop stops the shared server, if there is one.
func Stop() {
	if s := shared.server; s != nil {
		_ = s.cmd.Process.Signal(os.Interrupt) // fast shutdown
		_ = s.cmd.Wait()
		_ = os.RemoveAll(s.dir)
	}
}

// User returns the superuser's DSN for another user.
func (s *Server) User(name, password string) string {
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/postgres?sslmode=disable", name, password, s.Port)
}

// Exec runs statements as the superuser.
func (s *Server) Exec(tb testing.TB, statements ...string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, q := range statements {
		if _, err := conn.Exec(ctx, q); err != nil {
			tb.Fatalf("%s: %v", q, err)
		}
	}
}

// Logs reports whether somebody can log in with a DSN.
func (s *Server) Logs(tb testing.TB, dsn string) bool {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return false
	}
	_ = conn.Close(ctx)
	return true
}

func bin() (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Reverse(dirs)
	for _, d := range append(dirs, "/opt/homebrew/opt/postgresql@17/bin") {
		if _, err := os.Stat(filepath.Join(d, "initdb")); err == nil {
			return d, nil
		}
	}
	p, err := exec.LookPath("initdb")
	return filepath.Dir(p), err
}

// as runs a program as the user postgres if we are root, whom PostgreSQL refuses.
func as(name string, args ...string) *exec.Cmd {
	if os.Getuid() == 0 {
		return exec.Command("setpriv", append([]string{"--reuid", "postgres", "--regid", "postgres", "--init-groups", "--", name}, args...)...)
	}
	return exec.Command(name, args...)
}

func start() (*Server, error) {
	bin, err := bin()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "countersign-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	pw := filepath.Join(dir, "pw")
	if err := os.WriteFile(pw, []byte(Password), 0o644); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		if out, err := exec.Command("chown", "-R", "postgres", dir).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("chown: %w: %s", err, out)
		}
	}
	data := filepath.Join(dir, "data")
	if out, err := as(filepath.Join(bin, "initdb"), "-D", data, "-U", "super", "--pwfile", pw, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if s.Port, err = freePort(); err != nil {
		return nil, err
	}
	s.cmd = as(filepath.Join(bin, "postgres"), "-D", data, "-p", fmt.Sprint(s.Port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "log_statement=all", "-c", "shared_buffers=16MB", "-c", "max_connections=60")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.DSN = s.User("super", Password)
	return s, s.wait()
}

func (s *Server) wait() error {
	deadline := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		conn, err := pgx.Connect(ctx, s.DSN)
		if err == nil {
			_ = conn.Close(ctx)
		}
		cancel()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Log returns what the server wrote: every statement that it ran.
func (s *Server) Log(tb testing.TB) string {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	_, port, ok := strings.Cut(l.Addr().String(), ":")
	if !ok {
		return 0, fmt.Errorf("no port in %s", l.Addr())
	}
	var n int
	_, err = fmt.Sscan(port, &n)
	return n, err
}
