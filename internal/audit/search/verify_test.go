package search_test

import (
	"encoding/json/v2"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func (f *fixture) verify(t *testing.T) []audit.Problem {
	t.Helper()
	got, err := f.s.VerifySlice(t.Context(), audit.Place{}, 1<<30)
	if err != nil || !got.Done {
		t.Fatalf("%+v, %v", got, err)
	}
	return got.Problems
}

func (f *fixture) exec(t *testing.T, db *storage.DB, q string, args ...any) {
	t.Helper()
	err := db.Tx(t.Context(), func(tx *storage.Tx) error { return tx.ExecOne(t.Context(), q, args...) })
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
}

// document returns the words of an event's document on SQLite, as a JSON list.
func (f *fixture) document(t *testing.T, event string) string {
	t.Helper()
	rec, err := f.log.Get(t.Context(), event)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(strings.Fields(f.s.Document(&rec)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every word counts, not only the first and the last.
func TestVerifyComparesEveryWord(t *testing.T) {
	const words = "the words of its payloads are not in the search index"
	which := ` WHERE call = 'call_1'`
	for _, c := range []struct{ name, sqlite, postgres, message string }{
		{"of a payload, all", `UPDATE search_text SET words = (SELECT group_concat(value, ' ') FROM json_each($1) WHERE value NOT GLOB '_[^_]*') WHERE rowid = $2`, `UPDATE search_events SET blind = ''` + which, words},
		{"of a payload, one", `UPDATE search_text SET words = (SELECT group_concat(value, ' ') FROM json_each($1) WHERE key <> json_array_length($1) - 3) WHERE rowid = $2`,
			`UPDATE search_events SET blind = ts_delete(blind, (tsvector_to_array(blind))[2])` + which, words},
		{"of a payload, one for another", `UPDATE search_text SET words = (SELECT group_concat(CASE WHEN key = json_array_length($1) - 3 THEN '_0123456789' ELSE value END, ' ') FROM json_each($1)) WHERE rowid = $2`,
			`UPDATE search_events SET blind = ts_delete(blind, (tsvector_to_array(blind))[2]) || 'x:1'::tsvector` + which, words},
		{"of an event, one for another", `UPDATE search_text SET words = (SELECT group_concat(CASE WHEN value = 'ledger' THEN 'legder' ELSE value END, ' ') FROM json_each($1)) WHERE rowid = $2`,
			`UPDATE search_events SET words = ts_delete(words, 'ledger')` + which, "its words are not in the search index"},
		{"a value of a field", `UPDATE search_text SET words = (SELECT group_concat(CASE WHEN value GLOB '__*' AND key = 5 THEN '__0123' ELSE value END, ' ') FROM json_each($1)) WHERE rowid = $2`, "", "its words are not in the search index"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			storagetest.Each(t, func(t *testing.T, db *storage.DB) {
				f := setup(t, db)
				f.add(t, "one", 1, audit.Event{Type: audit.CallDenied, Agent: "a", Connection: "ledger", Tool: "pay", Call: "call_1", Reason: strings.Repeat("word ", 100)},
					audit.Payload{Name: "arguments", Body: []byte(`{"invoice":"4711","note":"pay by friday"}`)})
				f.add(t, "two", 2, audit.Event{Type: audit.CallDenied, Call: "call_2"})
				f.caughtUp(t)
				if problems := f.verify(t); len(problems) > 0 {
					t.Fatalf("a sound index: %v", problems)
				}
				if db.Dialect() == storage.Postgres {
					if c.postgres == "" {
						t.Skip("PostgreSQL has them in columns alone")
					}
					f.exec(t, db, c.postgres)
				} else {
					var event string
					var doc int64
					if err := db.QueryRow(t.Context(), `SELECT id, doc FROM search_events`+which).Scan(&event, &doc); err != nil {
						t.Fatal(err)
					}
					f.exec(t, db, c.sqlite, f.document(t, event), doc)
				}
				if problems := f.verify(t); len(problems) != 1 || !strings.Contains(problems[0].Message, c.message) {
					t.Errorf("%v", problems)
				}
			})
		})
	}
}
