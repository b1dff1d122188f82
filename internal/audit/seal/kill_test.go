package seal_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

const (
	childDSN  = "COUNTERSIGN_SEAL_CHILD"
	childHead = "COUNTERSIGN_SEAL_HEAD"
)

func TestMain(m *testing.M) {
	if dsn := os.Getenv(childDSN); dsn != "" {
		if err := child(dsn, os.Getenv(childHead)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child records and seals until it is killed.
func child(dsn, headFile string) error {
	ctx := context.Background()
	db, err := storage.Open(ctx, dsn)
	if err != nil {
		return err
	}
	l, err := audit.Open(ctx, db, audit.Options{Redactor: inspection.New(), Keeper: audittest.Keeper("k")})
	if err != nil {
		return err
	}
	sealer, err := seal.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		return err
	}
	s, err := seal.New(ctx, db, l, seal.Options{Origin: "example.com/log", Sealer: sealer, HeadFile: headFile, Every: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))})
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	fmt.Println("ready")
	failed := make(chan error)
	for range 4 {
		go func() {
			for {
				if _, err := l.Append(ctx, audit.Event{Type: "test.done", Actor: audit.System}); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

type process struct {
	cmd    *exec.Cmd
	stderr *bytes.Buffer
	head   string
}

func start(t *testing.T, dsn, head string) process {
	t.Helper()
	p := process{cmd: exec.Command(os.Args[0]), stderr: &bytes.Buffer{}, head: head}
	p.cmd.Env = append(os.Environ(), childDSN+"="+dsn, childHead+"="+head)
	p.cmd.Stderr = p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		p.cmd.Wait()
		t.Fatalf("the child did not start: %q, %v\n%s", line, err, p.stderr)
	}
	go io.Copy(io.Discard, out)
	return p
}

func (p process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.cmd.Wait()
	if p.stderr.Len() > 0 {
		t.Errorf("the child complained: %s", p.stderr)
	}
}

// TestKilledAnywhere kills sealers at random moments while events come in. On
// PostgreSQL two run at once, and one of them is killed each time.
func TestKilledAnywhere(t *testing.T) {
	kills := 20
	if testing.Short() {
		kills = 5
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		dir := t.TempDir()
		heads := map[int64]tlog.Checkpoint{}
		see := func(p process) {
			if c, ok := headOf(t, p.head); ok {
				if had, ok := heads[c.Size]; ok && had.Root != c.Root {
					t.Fatalf("two roots were signed for size %d", c.Size)
				}
				heads[c.Size] = c
			}
		}
		live := []process{start(t, dsn, filepath.Join(dir, "a"))}
		if bytes.HasPrefix([]byte(dsn), []byte("postgres")) {
			live = append(live, start(t, dsn, filepath.Join(dir, "b")))
		}
		for range kills {
			<-time.After(time.Duration(20+rand.IntN(300)) * time.Millisecond) // a random moment is the test
			i := rand.IntN(len(live))
			live[i].kill(t)
			see(live[i])
			live[i] = start(t, dsn, live[i].head)
		}
		for _, p := range live {
			p.kill(t)
			see(p)
		}
		checkHeads(t, storagetest.Open(t, dsn), heads)
	})
}

func headOf(t *testing.T, path string) (tlog.Checkpoint, bool) {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return tlog.Checkpoint{}, false
	}
	text, _, _ := bytes.Cut(b, []byte("\n\n"))
	c, err := tlog.ParseCheckpoint(string(text) + "\n")
	if err != nil {
		t.Fatalf("the head file is torn: %v\n%s", err, b)
	}
	return c, true
}

// checkHeads seals what is left, then proves every head that was signed
// consistent with the one after it.
func checkHeads(t *testing.T, db *storage.DB, heads map[int64]tlog.Checkpoint) {
	t.Helper()
	l := openLog(t, db)
	s := open(t, db, l, options(t))
	deadline := time.Now().Add(20 * time.Second)
	for st, err := s.Status(t.Context()); st.Behind > 0 || st.Size == 0; st, err = s.Status(t.Context()) {
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %v", st, err)
		}
		if n, err := s.Step(t.Context()); err != nil {
			t.Fatal(err)
		} else if n == 0 {
			<-time.After(50 * time.Millisecond) // the dead leader's lease runs out
		}
	}
	rep := mustVerify(t, s)
	var last tlog.Checkpoint
	nodes := tlog.TileNodes(rep.Size, func(tile tlog.Tile) ([]byte, error) { return fetcher(s.Handler(nil))(tile.Path()) })
	for before := int64(0); ; before = last.Size {
		cs := ascending(t, s, before)
		if len(cs) == 0 {
			break
		}
		for _, c := range cs {
			proof, err := tlog.ProveConsistency(last.Size, c.Size, nodes)
			if err != nil {
				t.Fatal(err)
			}
			if last.Size > 0 {
				if err := tlog.VerifyConsistency(last.Size, c.Size, last.Root, c.Root, proof); err != nil {
					t.Errorf("%d to %d: %v", last.Size, c.Size, err)
				}
			}
			if h, ok := heads[c.Size]; ok && h.Root != c.Root {
				t.Errorf("two roots were signed for size %d", c.Size)
			}
			delete(heads, c.Size)
			last = c
		}
	}
	if len(heads) > 0 {
		t.Errorf("%d heads were kept outside the database and are not in it", len(heads))
	}
	t.Logf("%d records, %d checkpoints", rep.Records, rep.Checkpoints)
	if rep.Checkpoints < 3 { // on PostgreSQL each dead leader costs the rest of its lease
		t.Error("hardly anything was sealed between the kills")
	}
}

func ascending(t *testing.T, s *seal.Service, after int64) []tlog.Checkpoint {
	t.Helper()
	var out []tlog.Checkpoint
	for before := int64(0); ; {
		cs, err := s.Checkpoints(t.Context(), before, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cs {
			root, err := tlog.ParseHash(c.Root)
			if err != nil {
				t.Fatal(err)
			}
			if c.Size > after {
				out = append([]tlog.Checkpoint{{Size: c.Size, Root: root}}, out...)
			}
			before = c.Size
		}
		if len(cs) == 0 || before <= after {
			return out
		}
	}
}
