package use_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/use"
)

// What tells this test's own program that it is to be killed.
const (
	victimDSN = "COUNTERSIGN_TEST_VICTIM_DSN"
	victimDay = "COUNTERSIGN_TEST_VICTIM_DAY"
)

// Processes that follow the log and record calls are killed with SIGKILL while they
// do both. Reading the log again gives the same as was written.
func TestKilledProcesses(t *testing.T) {
	if os.Getenv(victimDSN) != "" {
		victim(t)
		return
	}
	if testing.Short() {
		t.Skip("it starts processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		t.Run("before", func(t *testing.T) { open(t, dsn).base() })
		const deaths = 2
		for n := range deaths {
			kill(t, dsn, n*100)
		}
		w := open(t, dsn)
		w.set(day0.AddDate(1, 0, 0))
		if w.rows() == 0 {
			t.Fatal("nothing was written before they died")
		}
		s := w.follower(use.Options{})
		got := text(t, s, use.Query{Days: true})
		if err := s.Rebuild(ctx, fiona, "", false); err != nil {
			t.Fatal(err)
		}
		if want := text(t, s, use.Query{Days: true}); got != want {
			t.Errorf("after %d deaths:\n%s\nread again:\n%s", deaths, got, want)
		}
	})
}

// kill starts a victim and kills it when it has written days of its calls.
func kill(t *testing.T, dsn string, day int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcesses$")
	cmd.Env = append(os.Environ(), victimDSN+"="+dsn, victimDay+"="+strconv.Itoa(day))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	wrote := false
	for !wrote && lines.Scan() {
		wrote = lines.Text() == "wrote"
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil || !wrote {
		t.Error("it ended by itself", err)
	}
	_ = cmd.Wait() // it was killed
}

// victim records calls, follows them, says when it has written some, and goes on
// until it is killed.
func victim(t *testing.T) {
	first, err := strconv.Atoi(os.Getenv(victimDay))
	if err != nil {
		t.Fatal(err)
	}
	w := open(t, os.Getenv(victimDSN))
	if err := w.db.Tx(ctx, func(tx *storage.Tx) error { // that of who was killed before would end in time
		_, err := tx.Exec(ctx, `DELETE FROM leases WHERE name = 'use'`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	before, s := w.rows(), w.follower(use.Options{Most: 3}) // it writes at every step
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for n, said := 0, false; ; n++ {
		at := day0.AddDate(0, 0, first+n/50%90).Add(time.Duration(n%50) * time.Minute)
		w.set(at)
		w.call(at, []string{"payer", "writer"}[n%2], []string{"ledger/pay_invoice", "helpdesk/send_email", "ledger/list_invoices"}[n%3], fmt.Sprintf(`{"invoice_id":"i","amount_cents":%d,"to":"x"}`, n*37%9000))
		if !said && w.rows() > before {
			said = true
			fmt.Println("\nwrote")
		}
	}
}
