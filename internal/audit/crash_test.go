package audit_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// victimEnv makes this test binary append to the store it names until it is
// killed.
const victimEnv = "COUNTERSIGN_TEST_AUDIT_VICTIM"

// workEnv says what it does.
const workEnv = "COUNTERSIGN_TEST_AUDIT_WORK"

func TestMain(m *testing.M) {
	if dsn := os.Getenv(victimEnv); dsn != "" {
		work := victim
		if os.Getenv(workEnv) == "erase" {
			work = eraserVictim
		}
		if err := work(dsn); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// victim says "intent EVENT" and "append EVENT" for what it was told is
// durable.
func victim(dsn string) error {
	ctx := context.Background()
	db, err := storage.Open(ctx, dsn)
	if err != nil {
		return err
	}
	l, err := audit.Open(ctx, db, audit.Options{Redactor: masker{secret}, Keeper: audittest.Keeper("k")})
	if err != nil {
		return err
	}
	errs := make(chan error)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				r, err := l.Intent(ctx, callEvent(fmt.Sprintf("call-%d-%d-%d", os.Getpid(), w, i)), audit.Payload{Name: "arguments", Body: []byte("x")})
				if err != nil {
					errs <- err
					return
				}
				fmt.Println("intent", r.Event())
				l.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded}})
				ref, err := l.Append(ctx, audit.Event{Type: audit.CallDenied})
				if err != nil {
					errs <- err
					return
				}
				fmt.Println("append", ref.ID)
			}
		}()
	}
	return <-errs
}

// kills is how often the process dies.
const kills = 20

func TestKilledProcessesLoseNothingAcknowledged(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a process many times")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		ctx := context.Background()
		acked := map[string]bool{}
		for range kills {
			for ev := range strings.Lines(runAndKill(t, dsn, 40+rand.IntN(200), "append")) {
				if _, ev, ok := strings.Cut(strings.TrimSpace(ev), " "); ok {
					acked[ev] = true
				}
			}
		}
		db := storagetest.Open(t, dsn)
		execute(t, db, `UPDATE lanes SET until = 0`) // the leases of the dead run out
		l := open(t, db, options(t))
		rep := mustVerify(t, l)
		intents, outcomes, unknown := count(t, l, acked)
		if len(acked) > 0 {
			t.Errorf("%d acknowledged events are not in the log", len(acked))
		}
		for call, n := range intents {
			if n != 1 || outcomes[call] != 1 {
				t.Errorf("call %s: %d intents, %d outcomes", call, n, outcomes[call])
			}
		}
		if unknown == 0 || len(outcomes) != len(intents) {
			t.Errorf("%d intents, %d outcomes, %d of them unknown", len(intents), len(outcomes), unknown)
		}
		t.Logf("%d events, %d calls, %d unknown, %d lanes", rep.Events, len(intents), unknown, rep.Lanes)
		var open int
		if err := db.QueryRow(ctx, `SELECT count(*) FROM lanes WHERE clean_sn <> sn`).Scan(&open); err != nil || open != 0 {
			t.Errorf("%d lanes still look open, %v", open, err)
		}
	})
}

// count removes what is in the log from acked and counts the events of calls.
func count(t *testing.T, l *audit.Log, acked map[string]bool) (intents, outcomes map[string]int, unknown int) {
	t.Helper()
	intents, outcomes = map[string]int{}, map[string]int{}
	at := audit.Cursor{}
	for {
		n, err := l.Next(context.Background(), at, 1000, false, func(r audit.Record) error {
			at[r.Lane] = r.SN
			delete(acked, r.Event.ID)
			switch r.Event.Type {
			case audit.CallIntent:
				intents[r.Event.Call]++
			case audit.CallOutcome:
				outcomes[r.Event.Call]++
				if r.Event.Outcome.Status == audit.Unknown {
					unknown++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return intents, outcomes, unknown
		}
	}
}

// runAndKill lets a victim work until it has acknowledged n events, kills it
// and returns all it said.
func runAndKill(t *testing.T, dsn string, n int, work string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), victimEnv+"="+dsn, workEnv+"="+work)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	var once sync.Once
	defer once.Do(func() { cmd.Process.Kill() })
	sc := bufio.NewScanner(out)
	for i := 0; sc.Scan(); i++ {
		said.WriteString(sc.Text() + "\n")
		if i == n {
			once.Do(func() { cmd.Process.Kill() })
		}
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the victim ended by itself: %v", err)
	}
	return said.String()
}
