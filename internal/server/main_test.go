package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/server"
	pgtest "github.com/countersign/countersign/test/postgres"
)

// serveEnv makes the test binary be a server: tests kill real processes.
const serveEnv = "COUNTERSIGN_TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) != "" {
		dieAt()
		os.Exit(serveProcess())
	}
	if part := os.Getenv(partEnv); part != "" {
		os.Exit(partProcess(part))
	}
	code := m.Run()
	pgtest.Stop()
	os.Exit(code)
}

func serveProcess() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg, err := config.Load("", os.Environ())
	if err == nil {
		err = server.Run(ctx, cfg, "test", slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), func(r server.Ready) {
			fmt.Printf("ready %s %s\n", r.URL, r.AdminToken)
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// process is a server in a process of its own.
type process struct {
	url, token string
	cmd        *exec.Cmd
	stderr     *said
}

// said is what a process says, while it may still be saying it.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.b.Bytes())
}

func (s *said) String() string { return string(s.Bytes()) }

// start starts a server on data and store and waits until its doors are open.
// token is the administrator's, kept from the first start.
func start(t testing.TB, data, store, token string, env ...string) *process {
	t.Helper()
	p, err := launch(t, data, store, token, env...)
	if err != nil {
		t.Fatalf("the server did not start: %v\n%s", err, p.stderr)
	}
	return p
}

// launch is start for servers that may not get as far; then they have ended.
func launch(t testing.TB, data, store, token string, env ...string) (*process, error) {
	t.Helper()
	p := &process{token: token, stderr: &said{}}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(append(os.Environ(), serveEnv+"=1", "COUNTERSIGN_DATA="+data, "COUNTERSIGN_STORE="+store, "COUNTERSIGN_LISTEN=127.0.0.1:0", "COUNTERSIGN_URL="), env...)
	p.cmd.Stderr = p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.cmd.Wait()
		return p, err
	}
	fields := strings.Fields(line)
	p.url = fields[1]
	if len(fields) > 2 {
		p.token = fields[2]
	}
	t.Cleanup(func() { p.kill() })
	return p, nil
}

// kill ends the process with SIGKILL and waits until it is gone.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
}

// stop ends the process as a person would, and fails the test if it does not
// end well.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(40*time.Second, func() { p.cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("the server did not stop cleanly: %v\n%s", err, p.stderr)
	}
}

// api calls an operation as the administrator and fails the test unless it
// succeeds.
func (p *process) api(t testing.TB, method, path string, in, out any) {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest(method, p.url+"/api/v1"+path, bytes.NewReader(b))
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Countersign-Reason", "test")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s\n%s", method, path, resp.Status, answer)
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			t.Fatal(errors.Join(err, errors.New(string(answer))))
		}
	}
}

// company registers people, an agent with a key, and returns the key.
func (p *process) company(t testing.TB) (key string) {
	t.Helper()
	for _, name := range []string{"olga", "ben"} {
		p.api(t, "PUT", "/users/"+name, map[string]any{"role": "owner"}, nil)
	}
	p.api(t, "PUT", "/agents/worker", map[string]any{"owner": "olga", "backup": "ben", "stage": "development", "purpose": "tests"}, nil)
	var issued struct {
		Key string `json:"key"`
	}
	p.api(t, "POST", "/agents/worker/keys", map[string]any{}, &issued)
	return issued.Key
}

// model registers an OpenAI-compatible upstream under name, with a secret and a
// grant for everything on it.
func (p *process) model(t testing.TB, name, dialect, url, secret string) {
	t.Helper()
	auth := map[string]string{"openai": "bearer", "anthropic": "x-api-key"}[dialect]
	p.api(t, "PUT", "/connections/"+name, map[string]any{"kind": "llm", "dialect": dialect, "url": url, "owner": "olga", "allow_private": true, "secret": name + "-key", "auth": auth}, nil)
	p.api(t, "PUT", "/secrets/"+name+"-key", map[string]any{"value": secret, "owner": "olga", "connection": name, "hosts": []string{"127.0.0.1"}}, nil)
	p.grant(t, name)
}

func (p *process) grant(t testing.TB, connection string) {
	t.Helper()
	p.api(t, "PUT", "/grants/worker-"+connection, map[string]any{"agent": "worker", "connection": connection, "tools": []string{"*"},
		"expires": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339), "reason": "test"}, nil)
}
