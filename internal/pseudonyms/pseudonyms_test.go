package pseudonyms_test

import (
	"context"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/pseudonyms"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var (
	ctx    = context.Background()
	worker = pseudonyms.Agent{ID: "agt_1", Name: "worker"}
	pii    = []string{"pii"}
)

func open(t *testing.T, db *storage.DB, now *time.Time) (*pseudonyms.Service, *audit.Log) {
	t.Helper()
	log, err := audit.Open(ctx, db, audit.Options{Keeper: audittest.Keeper("k"), Redactor: inspection.New()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(ctx) })
	s, err := pseudonyms.New(db, log, pseudonyms.Options{Derive: func(label string) []byte { sum := sha256.Sum256([]byte(label)); return sum[:] }, Now: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	return s, log
}

func TestAPlaceholderStandsForOneValueOfOneAgent(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		now := time.Now()
		s, _ := open(t, db, &now)
		stands := func(a pseudonyms.Agent, value string) string {
			t.Helper()
			out, err := s.For(ctx, a, "pii", "email", []byte(value))
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		reveal := func(a pseudonyms.Agent, labels []string, text string) string {
			t.Helper()
			out, err := s.Reveal(ctx, a, labels, []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		}
		jane, ben := stands(worker, "jane@example.org"), stands(worker, "ben@example.org")
		second := pseudonyms.Agent{ID: "agt_2", Name: "second"}
		if jane == ben || stands(worker, "jane@example.org") != jane || stands(second, "jane@example.org") == jane {
			t.Fatalf("%s %s", jane, ben)
		}
		bare := strings.Trim(jane, "[]")
		for text, want := range map[string]string{
			"to " + jane + " and " + ben + ".":         "to jane@example.org and ben@example.org.",
			`{"to":"` + bare + `"}`:                    `{"to":"jane@example.org"}`,
			jane[:len(jane)-2] + "x]":                  jane[:len(jane)-2] + "x]",
			strings.ToUpper(jane):                      strings.ToUpper(jane),
			"x" + bare:                                 "x" + bare,
			bare + "x":                                 bare + "x",
			strings.Replace(jane, "email", "phone", 1): strings.Replace(jane, "email", "phone", 1),
			"[pii:email:0000000000000000]":             "[pii:email:0000000000000000]",
			"no placeholder":                           "no placeholder",
		} {
			if got := reveal(worker, pii, text); got != want {
				t.Errorf("%s became %s", text, got)
			}
		}
		if got := reveal(second, pii, jane); got != jane {
			t.Errorf("another agent got %s", got)
		}
		if got := reveal(worker, []string{"secret"}, jane); got != jane {
			t.Errorf("for another label: %s", got)
		}
		for _, bad := range []string{"", "a\"b", "a\\b", "a\nb", "a[b", "\xff", strings.Repeat("x", 513)} {
			if pseudonyms.Fit([]byte(bad)) {
				t.Errorf("%q can have a placeholder", bad)
			}
			if _, err := s.For(ctx, worker, "pii", "email", []byte(bad)); err == nil {
				t.Errorf("%q has one", bad)
			}
		}
		if found := inspection.New().Inspect([]byte(`{"to":"`+jane+`","text":"mail `+jane+` now"}`), inspection.All); len(found) != 0 {
			t.Errorf("a placeholder is found itself: %+v", found)
		}
	})
}

// Where the payloads of an agent are erased, what its placeholders stand for is,
// too.
func TestValuesGoWithThePayloads(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		now := time.Now()
		s, log := open(t, db, &now)
		jane, err := s.For(ctx, worker, "pii", "email", []byte("jane@example.org"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Erase(ctx, audit.Person("usr_1", "olga"), "asked to", audit.Erasure{Agent: "worker"}); err != nil {
			t.Fatal(err)
		}
		if out, err := s.Reveal(ctx, worker, pii, []byte(jane)); err != nil || string(out) != jane {
			t.Errorf("after the erasure: %s %v", out, err)
		}
	})
}

// What nobody has needed for a month is removed.
func TestOldValuesGo(t *testing.T) {
	now := time.Now()
	db := storagetest.Open(t, storagetest.SQLite(t))
	s, _ := open(t, db, &now)
	jane, err := s.For(ctx, worker, "pii", "email", []byte("jane@example.org"))
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(pseudonyms.Keep + time.Hour)
	if _, err := s.For(ctx, worker, "pii", "email", []byte("ben@example.org")); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Reveal(ctx, worker, pii, []byte(jane)); err != nil || string(out) != jane {
		t.Errorf("%s %v", out, err)
	}
}
