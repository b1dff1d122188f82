package server_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// pgServer is a PostgreSQL server that a test may kill.
type pgServer struct {
	t         *testing.T
	bin, data string
	port      int
	as        *syscall.Credential
	cmd       *exec.Cmd
}

// ownPostgres makes and starts a server.
func ownPostgres(t *testing.T) *pgServer {
	t.Helper()
	s := placePostgres(t)
	s.initialise()
	return s
}

// placePostgres finds a place for a server, or skips the test where its
// programs are not installed.
func placePostgres(t *testing.T) *pgServer {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a PostgreSQL server")
	}
	s := &pgServer{t: t, bin: pgPrograms(t), port: freePort(t)}
	dir, err := os.MkdirTemp("", "countersign-pg-") // t.TempDir is not open to another user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Getuid() == 0 { // PostgreSQL refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("as root this needs a user postgres, as whom the server runs")
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	s.data = filepath.Join(dir, "data")
	return s
}

// initialise makes the server's files and starts it.
func (s *pgServer) initialise() {
	t := s.t
	t.Helper()
	if out, err := s.program("initdb", "-D", s.data, "-U", "countersign", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", "--wal-segsize=1").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	conf := fmt.Sprintf("\nlisten_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = ''\nmax_connections = 60\nfsync = off\nmin_wal_size = 4MB\nmax_wal_size = 32MB\n", s.port)
	f, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(conf)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(s.kill)
}

func pgPrograms(t *testing.T) string {
	t.Helper()
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Reverse(dirs)
	for _, pattern := range []string{"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"} {
		more, _ := filepath.Glob(pattern)
		dirs = append(dirs, more...)
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir
		}
	}
	t.Skip("PostgreSQL's programs (initdb, postgres) are not installed, so no server can be killed")
	return ""
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *pgServer) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

func (s *pgServer) dsn(database string) string {
	return fmt.Sprintf("postgres://countersign@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// start starts the server and waits until it answers. What a killed one left
// may stand in the way for a moment.
func (s *pgServer) start() {
	s.t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if s.cmd == nil {
			s.cmd = s.program("postgres", "-D", s.data)
			if err := s.cmd.Start(); err != nil {
				s.t.Fatal(err)
			}
			ended := s.cmd
			go func() { _ = ended.Wait() }()
		}
		if s.query(`SELECT 1`) == nil {
			return
		}
		if syscall.Kill(s.cmd.Process.Pid, 0) != nil {
			s.cmd = nil // it gave up: again
		}
	}
	s.t.Fatal("PostgreSQL does not start")
}

// restart stops the server as an administrator would, breaking connections,
// and starts it.
func (s *pgServer) restart() {
	s.t.Helper()
	s.end(syscall.SIGINT)
	s.start()
}

// kill ends the server and all its processes at once. Without their parent they
// would go on for a moment.
func (s *pgServer) kill() {
	if s.cmd == nil {
		return
	}
	pid := s.cmd.Process.Pid
	_ = s.cmd.Process.Signal(syscall.SIGSTOP) // it starts no more of them
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	s.end(syscall.SIGKILL)
	for _, child := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

func (s *pgServer) end(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	for syscall.Kill(s.cmd.Process.Pid, 0) == nil {
		time.Sleep(5 * time.Millisecond)
	}
	s.cmd = nil
}

func (s *pgServer) query(q string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, q)
	return err
}

// database makes a fresh one and returns its DSN.
func (s *pgServer) database(name string) string {
	s.t.Helper()
	if err := s.query("CREATE DATABASE " + name); err != nil {
		s.t.Fatal(err)
	}
	return s.dsn(name)
}

// hog takes every connection there is, those of a database that are broken for
// it too, until the returned function gives them back.
func (s *pgServer) hog(database string) (release func()) {
	s.t.Helper()
	ctx := context.Background()
	var mine []*pgx.Conn
	take := func() {
		for {
			conn, err := pgx.Connect(ctx, s.dsn("postgres"))
			if err != nil {
				return
			}
			mine = append(mine, conn)
		}
	}
	take()
	// One that is just being opened is not seen yet: none must be seen for a while.
	quiet := 0
	for end := time.Now().Add(30 * time.Second); len(mine) > 0; {
		rows, err := mine[0].Query(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, database)
		n := 0
		for err == nil && rows.Next() {
			n++
		}
		if quiet++; n > 0 {
			quiet = 0
		}
		if err != nil || quiet == 10 {
			break
		}
		take()
		time.Sleep(20 * time.Millisecond)
		if time.Now().After(end) {
			s.t.Fatal("the connections cannot all be taken")
		}
	}
	if len(mine) == 0 || strings.Contains(s.t.Name(), "/") && len(mine) < 10 {
		s.t.Fatalf("only %d connections were taken", len(mine))
	}
	return func() {
		for _, conn := range mine {
			_ = conn.Close(ctx)
		}
	}
}
