package export_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/export"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// The environment of a child: what it exports where. It appends events and
// prints each once it is durable, until it is killed.
const (
	envDSN = "EXPORT_TEST_DSN"
	envURL = "EXPORT_TEST_URL"
	envDir = "EXPORT_TEST_DIR"
)

func TestMain(m *testing.M) {
	if os.Getenv(envDSN) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child() error {
	ctx := context.Background()
	db, err := storage.Open(ctx, os.Getenv(envDSN))
	if err != nil {
		return err
	}
	l, err := audit.Open(ctx, db, audit.Options{Redactor: noSecrets{}, Keeper: audittest.Keeper("k")})
	if err != nil {
		return err
	}
	s, err := export.New(ctx, db, l, export.Options{Targets: childTargets(os.Getenv(envURL), os.Getenv(envDir)), Backoff: 10 * time.Millisecond})
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	for i := range 2000 {
		ref, err := l.Append(ctx, audit.Event{Type: audit.CallDenied, Agent: "a", Call: fmt.Sprint("call_", i), Reason: strings.Repeat("x", rand.N(2000))})
		if err != nil {
			return err
		}
		fmt.Println(ref.ID)
	}
	select {} // until killed
}

func childTargets(url, dir string) (out []export.Target) {
	if url != "" {
		out = append(out, export.Target{Name: "collector", Kind: export.OTLP, URL: url, Timeout: time.Second})
	}
	if dir != "" {
		out = append(out, export.Target{Name: "lake", Kind: export.OCSF, Dir: dir, RotateBytes: 20_000})
	}
	return out
}

// spawn starts a child and returns it with what it prints.
func spawn(t *testing.T, dsn, url, dir string) (*exec.Cmd, <-chan string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), envDSN+"="+dsn, envURL+"="+url, envDir+"="+dir)
	problems := &said{}
	cmd.Stderr = problems
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	lines := make(chan string, 4000)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
		if text := problems.text(); text != "" {
			t.Log(text)
		}
	}()
	return cmd, lines
}

// said is what a child says, while it may still be saying it.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_, _ = cmd.Process.Wait()
}

// A process that is killed when the target has what it sent, and the position
// is not stored yet, sends it again: at least once.
func TestKilledBetweenSendingAndStoringThePosition(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		rc := receive(t)
		killed := make(chan []string, 1)
		var cmd *exec.Cmd
		started := make(chan struct{})
		rc.set(func(_ http.ResponseWriter, r *http.Request, ids []string) bool {
			if r.URL.Path != "/v1/logs" || len(ids) < 3 {
				return false
			}
			<-started
			kill(cmd)
			select {
			case killed <- ids:
			default:
			}
			return false // it arrived, and nobody is left to hear so
		})
		cmd, lines := spawn(t, dsn, rc.ts.URL, "")
		close(started)
		var sent []string
		select {
		case sent = <-killed:
		case <-time.After(2 * time.Minute):
			t.Fatal("nothing was sent")
		}
		rc.set(nil)
		var durable []string
		for id := range lines {
			durable = append(durable, id)
		}
		h := open(t, storagetest.Open(t, dsn))
		h.follow(childTargets(rc.ts.URL, "")...)
		h.caughtUp("collector")
		got := rc.events()
		if !contains(got, durable) || !contains(got, h.all()) {
			t.Errorf("%d events arrived of %d", len(got), len(h.all()))
		}
		times := map[string]int{}
		for _, id := range got {
			times[id]++
		}
		for _, id := range sent {
			if times[id] != 2 {
				t.Errorf("%s, sent when the process was killed, arrived %d times", id, times[id])
			}
		}
	})
}

// However often the process is killed, the files hold every event once, in
// whole lines.
func TestFilesSurviveKilling(t *testing.T) {
	kills := 6
	switch {
	case testing.Short():
		kills = 3
	case os.Getenv("COUNTERSIGN_FAULTS") == "long":
		kills = 40
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) { killWriters(t, dsn, kills) })
}

// killWriters kills processes that write files, and looks at what is left.
func killWriters(t *testing.T, dsn string, kills int) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "lake")
	var durable []string
	for i := range kills {
		cmd, lines := spawn(t, dsn, "", dir)
		for range 20 + rand.N(300) { // an event later or earlier
			id, ok := <-lines
			if !ok {
				t.Fatalf("the child ended by itself, round %d", i)
			}
			durable = append(durable, id)
		}
		kill(cmd)
		for id := range lines {
			durable = append(durable, id)
		}
	}
	h := open(t, storagetest.Open(t, dsn))
	target := childTargets("", dir)[0]
	target.RotateAfter = time.Nanosecond
	h.follow(target)
	h.caughtUp("lake")
	until(t, "every file is handed over", func() bool {
		parts, err := filepath.Glob(filepath.Join(dir, ".lake-*"))
		return err == nil && len(parts) == 0
	})
	got := fileEvents(t, dir)
	if len(got) != len(h.all()) || !contains(got, h.all()) || !contains(got, durable) {
		t.Errorf("the files hold %d events, the log %d", len(got), len(h.all()))
	}
}

// fileEvents returns the events in the files handed over, in order. A line
// that is torn or there twice is an error.
func fileEvents(t *testing.T, dir string) (ids []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 || b[len(b)-1] != '\n' {
			t.Errorf("%s does not end with a whole line", name)
		}
		for line := range bytes.Lines(b) {
			var o struct{ Metadata struct{ UID string } }
			if err := json.Unmarshal(line, &o, json.MatchCaseInsensitiveNames(true)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if other := seen[o.Metadata.UID]; other != "" {
				t.Errorf("%s is in %s and in %s", o.Metadata.UID, other, name)
			}
			seen[o.Metadata.UID] = name
			ids = append(ids, o.Metadata.UID)
		}
	}
	return ids
}
