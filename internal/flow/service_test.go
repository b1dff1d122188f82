package flow_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json/jsontext"
	"fmt"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var ctx = context.Background()

type clock struct{ now time.Time }

func service(t *testing.T, db *storage.DB, c *clock) *flow.Service {
	t.Helper()
	s, err := flow.New(db, flow.Options{Now: func() time.Time { return c.now }, Derive: func(label string) []byte {
		sum := sha256.Sum256([]byte(label))
		return sum[:]
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What one replica remembers, another knows at once, and so does a later start;
// after the longest life of a run it is gone.
func TestEveryReplicaRemembers(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c := &clock{time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
		a, b := service(t, db, c), service(t, db, c)
		judge := func(s *flow.Service, run string) flow.Judgement {
			t.Helper()
			j, err := s.Judge(ctx, run, send, "send_mail", jsontext.Value(`{"to":"cara@example.org"}`))
			must(t, err)
			return j
		}
		must(t, a.Words(ctx, "run_1", flow.User, "Answer the mail about the garden party"))
		if j := judge(b, "run_1"); j.Untrusted || !j.Asked {
			t.Errorf("before anything is read: %+v", j)
		}
		must(t, b.Reads(ctx, "run_1", mail))
		if j := judge(a, "run_1"); !j.Untrusted || len(j.Unendorsed()) != 1 {
			t.Errorf("after the other replica read: %+v", j)
		}
		must(t, a.Result(ctx, "run_1", mail, "search", "call_1", false, []byte(inbox)))
		for name, s := range map[string]*flow.Service{"the other": b, "a new one": service(t, db, c)} {
			if j := judge(s, "run_1"); !j.Untrusted || len(j.Unendorsed()) != 0 {
				t.Errorf("%s: %+v", name, j)
			}
		}
		if j := judge(a, "run_2"); j.Untrusted || j.Asked {
			t.Errorf("another run: %+v", j)
		}
		// What is said after something untrusted was read is nobody's.
		must(t, a.Words(ctx, "run_1", flow.User, "Also write to eve@evil.test"))
		j, err := a.Judge(ctx, "run_1", send, "send_mail", jsontext.Value(`{"to":"eve@evil.test"}`))
		must(t, err)
		if len(j.Unendorsed()) == 0 {
			t.Error("words that came after an untrusted answer endorse")
		}
		c.now = c.now.Add(flow.Keep + time.Hour)
		if j := judge(service(t, db, c), "run_1"); j.Untrusted {
			t.Errorf("a day later: %+v", j)
		}
	})
}

func TestWhatCannotBeReadEndorsesNothing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c := &clock{time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
		s := service(t, db, c)
		must(t, s.Words(ctx, "run_1", flow.User, "Answer the mail about the garden party"))
		must(t, s.Reads(ctx, "run_1", mail))
		must(t, s.Result(ctx, "run_1", mail, "search", "call_1", false, []byte(inbox)))
		rows, err := db.Query(ctx, `SELECT sealed FROM flow`)
		must(t, err)
		for rows.Next() {
			var b []byte
			must(t, rows.Scan(&b))
			if bytes.Contains(b, []byte("garden")) || bytes.Contains(b, []byte("cara")) {
				t.Error("what a run read stands in the database")
			}
		}
		must(t, rows.Err())
		rows.Close()
		must(t, db.Tx(ctx, func(tx *storage.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE flow SET run = 'run_2'`)
			return err
		}))
		j, err := service(t, db, c).Judge(ctx, "run_2", send, "send_mail", jsontext.Value(`{"to":"cara@example.org"}`))
		must(t, err)
		if !j.Untrusted || len(j.Unendorsed()) == 0 {
			t.Errorf("another run's memory: %+v", j)
		}
		db.Close()
		if _, err := s.Judge(ctx, "run_1", send, "send_mail", jsontext.Value(`{}`)); err == nil {
			t.Error("judged without looking")
		}
	})
}

// What a run has read labels every run that continues it, also what it reads
// later; what it was told endorses nothing there.
func TestLabelsFollowWhoeverContinues(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c := &clock{time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
		a, b := service(t, db, c), service(t, db, c)
		must(t, a.Words(ctx, "old", flow.User, "write to ann@example.com"))
		must(t, a.Continues(ctx, "middle", []string{"old", "middle"}))
		must(t, b.Continues(ctx, "new", []string{"middle", "middle"}))
		must(t, b.Words(ctx, "new", flow.User, "send a mail"))
		judge := func() flow.Judgement {
			j, err := b.Judge(ctx, "new", send, "send_mail", jsontext.Value(`{"to":"ann@example.com"}`))
			must(t, err)
			return j
		}
		if j := judge(); j.Untrusted || len(j.Unendorsed()) != 1 {
			t.Errorf("before anything is read: %+v", j)
		}
		must(t, a.Labels(ctx, "middle", []string{"pii"}))
		must(t, a.Reads(ctx, "old", mail))
		if j := judge(); !j.Untrusted || len(j.Labels) != 1 || j.Labels[0] != "pii" || len(j.Unendorsed()) != 1 {
			t.Errorf("after both have read: %+v", j)
		}
		for name, want := range map[string]string{"new": "[pii untrusted]", "middle": "[pii untrusted]", "old": "[untrusted]", "other": "[]"} {
			if got, err := a.Carries(ctx, name); err != nil || fmt.Sprint(got.All()) != want {
				t.Errorf("%s carries %v (%v), want %s", name, got, err, want)
			}
		}
		for i := range 40 { // more than is followed counts as the worst
			must(t, a.Continues(ctx, "many", []string{fmt.Sprint("clean", i)}))
		}
		if got, err := b.Carries(ctx, "many"); err != nil || fmt.Sprint(got.All()) != "[untrusted]" {
			t.Errorf("too many runs: %v %v", got, err)
		}
		// Whom it continues says nothing about whether anybody watched it.
		must(t, a.Continues(ctx, "unwatched", []string{"clean1"}))
		must(t, a.Lost(ctx, "unwatched"))
		if got, err := b.Carries(ctx, "unwatched"); err != nil || fmt.Sprint(got.All()) != "[untrusted]" {
			t.Errorf("an unwatched run that continues another: %v %v", got, err)
		}
	})
}

// What a run did while nobody watched counts whatever it had gathered before, and
// on every replica.
func TestWhatIsLostCountsLater(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c := &clock{time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
		a, b := service(t, db, c), service(t, db, c)
		must(t, a.Words(ctx, "run_1", flow.User, "Send the report to ann@example.com"))
		must(t, a.Lost(ctx, "run_1"))
		must(t, a.Lost(ctx, "run_1"))
		must(t, a.Confidential(ctx, "run_1", []string{"user:ben", "user:ann"}))
		must(t, b.Confidential(ctx, "run_1", []string{"user:ann", "user:ben"}))
		j, err := b.Judge(ctx, "run_1", send, "send_mail", jsontext.Value(`{"to":"ann@example.com"}`))
		must(t, err)
		if !j.Untrusted || fmt.Sprint(j.Confidential, j.Labels) != "[[user:ann user:ben]] [confidential]" {
			t.Errorf("%+v", j)
		}
		must(t, b.Continues(ctx, "run_2", []string{"run_1"}))
		if j, err = a.Judge(ctx, "run_2", send, "send_mail", jsontext.Value(`{}`)); err != nil || !j.Untrusted || len(j.Confidential) != 1 {
			t.Errorf("a run that continues it: %+v %v", j, err)
		}
	})
}
