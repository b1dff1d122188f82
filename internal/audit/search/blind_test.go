package search_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// dump returns all that the index holds.
func dump(t *testing.T, db *storage.DB) string {
	t.Helper()
	ctx := context.Background()
	tables := []string{"search_events", "search_text_data", "search_text_docsize", "search_text_idx"}
	if db.Dialect() == storage.Postgres {
		tables = tables[:1]
	}
	var out strings.Builder
	for _, table := range tables {
		rows, err := db.Query(ctx, `SELECT * FROM `+table)
		if err != nil {
			t.Fatal(err)
		}
		names, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			row, at := make([]any, len(names)), make([]any, len(names))
			for i := range row {
				at[i] = &row[i]
			}
			if err := rows.Scan(at...); err != nil {
				t.Fatal(err)
			}
			for _, v := range row {
				fmt.Fprintf(&out, "%s|", v)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
	return out.String()
}

func TestPayloadsAreFoundButNotStored(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		ctx := context.Background()
		db := storagetest.Open(t, dsn)
		f := setup(t, db)
		deny := audit.Event{Type: audit.CallDenied, Agent: "a", Run: "run_1", Reason: "reasonword"}
		f.add(t, "one", 1, deny, audit.Payload{Name: "prompt", Body: []byte(`{"text":"Invoice 4711 of Nordwind GmbH"}`), Subject: "max"})
		f.add(t, "two", 2, deny, audit.Payload{Name: "prompt", Body: []byte("invoice 4712 of Nordwind"), Subject: "lisa"})
		f.caughtUp(t)
		expect := func(want map[string]string) {
			t.Helper()
			for q, names := range want {
				if got := strings.Join(f.find(t, q), " "); got != names {
					t.Errorf("%s: found %q, want %q", q, got, names)
				}
			}
		}
		both := map[string]string{"4711": "one", "nordwind": "one two", `"Nordwind GmbH"`: "one", `"GmbH Nordwind"`: "", "reasonword -4711": "two", "reason*": "one two", "Nordw*": ""}
		expect(both)
		held := dump(t, db)
		for _, text := range []string{"nordwind", "Nordwind", "4711", "gmbh", "invoice"} {
			if strings.Contains(held, text) {
				t.Errorf("the index holds %q", text)
			}
		}
		if !strings.Contains(held, "reasonword") && db.Dialect() == storage.Postgres {
			t.Error("the dump shows nothing")
		}
		if err := f.s.Rebuild(ctx, audit.System, "test"); err != nil {
			t.Fatal(err)
		}
		f.caughtUp(t)
		expect(both)
		if _, err := f.log.Erase(ctx, audit.System, "r", audit.Erasure{Subject: "max"}); err != nil {
			t.Fatal(err)
		}
		gone := map[string]string{"4711": "", "nordwind": "two", "reasonword": "one two", `"Nordwind GmbH"`: ""}
		expect(gone)
		if err := f.s.Rebuild(ctx, audit.System, "test"); err != nil {
			t.Fatal(err)
		}
		f.caughtUp(t)
		expect(gone)
		if _, err := f.log.Erase(ctx, audit.System, "r", audit.Erasure{Run: "run_1"}); err != nil {
			t.Fatal(err)
		}
		expect(map[string]string{"4712": "", "nordwind": "", "reasonword": "one two"})
		purged(t, db)
		f.s.Stop(ctx)
		f.log.Close(ctx)
		if db.Dialect() == storage.SQLite {
			db.Close()
			b, err := os.ReadFile(dsn)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range []string{"Nordwind", "nordwind", "4711"} {
				if bytes.Contains(b, []byte(text)) {
					t.Errorf("the file holds %q", text)
				}
			}
		}
	})
}

// purged waits until what was erased has left SQLite's index altogether.
func purged(t *testing.T, db *storage.DB) {
	t.Helper()
	if db.Dialect() == storage.Postgres {
		return
	}
	ctx := context.Background()
	for began, state := time.Now(), 1; state != 0; {
		if err := db.QueryRow(ctx, `SELECT value FROM search_state WHERE name = 'purge'`).Scan(&state); err != nil {
			t.Fatal(err)
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("still in state %d", state)
		}
	}
	w := db.Writer()
	if _, err := w.Exec(`CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, search_text, 'row')`); err != nil {
		t.Fatal(err)
	}
	var terms int
	if err := w.QueryRow(`SELECT count(*) FROM temp.terms WHERE term GLOB '_[^_]*'`).Scan(&terms); err != nil || terms != 0 {
		t.Errorf("%d words of erased payloads are left, %v", terms, err)
	}
	if _, err := w.Exec(`DROP TABLE temp.terms`); err != nil {
		t.Fatal(err)
	}
}

// What is indexed while it is erased must not stay in the index.
func TestErasureWhileIndexing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		f := setup(t, db)
		for i := range 200 {
			f.add(t, fmt.Sprint(i), i, audit.Event{Type: audit.CallDenied, Agent: "a"}, audit.Payload{Name: "prompt", Body: []byte("needle"), Subject: fmt.Sprint("s", i%5)})
		}
		for i := range 5 {
			if _, err := f.log.Erase(ctx, audit.System, "r", audit.Erasure{Subject: fmt.Sprint("s", i)}); err != nil {
				t.Fatal(err)
			}
		}
		f.caughtUp(t)
		q, err := search.Parse("needle", start)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := f.s.Find(ctx, q, search.Page{}); err != nil || len(res.Records) != 0 {
			t.Errorf("%d erased payloads are found, %v", len(res.Records), err)
		}
	})
}

func TestPayloadAPI(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := setup(t, db)
		f.add(t, "one", 1, audit.Event{Type: audit.CallDenied, Agent: "a", Run: "run_1"}, audit.Payload{Name: "prompt", Body: []byte("text"), Subject: "max"}, audit.Payload{Name: "digest", Body: []byte("text"), Level: audit.Digest})
		do := serve(t, f)
		for _, path := range []string{"POST /api/v1/log/erase", "POST /api/v1/log/holds", "DELETE /api/v1/log/holds/x", "PUT /api/v1/log/retention"} {
			method, path, _ := strings.Cut(path, " ")
			if code, body := do(method, "viewer "+path, nil); code != 403 {
				t.Errorf("a auditor may %s %s: %d %s", method, path, code, body)
			}
		}
		var h search.Hold
		if code, body := f.send(t, do, "POST", "/api/v1/log/holds", `{"run":"run_1","from":"2026-01-01T00:00:00Z","reason":"case 9"}`, &h); code != 201 || h.ID == "" || h.By != "admin" || h.From.IsZero() {
			t.Fatalf("%d %s", code, body)
		}
		if code, body := f.send(t, do, "POST", "/api/v1/log/erase", `{"subject":"max","reason":"asked"}`, nil); code != 409 || !strings.Contains(body, h.ID) {
			t.Errorf("%d %s", code, body)
		}
		for body, want := range map[string]int{`{"reason":"r"}`: 400, `{"run":"x","agent":"y","reason":"r"}`: 400, `{"subject":"max"}`: 400, `{"subject":"none","reason":"r"}`: 404, `{"person":"x"}`: 422, `{`: 400} {
			if code, answer := f.send(t, do, "POST", "/api/v1/log/erase", body, nil); code != want {
				t.Errorf("%s: %d %s", body, code, answer)
			}
		}
		if code, body := f.send(t, do, "DELETE", "/api/v1/log/holds/"+h.ID, "", nil); code != 204 {
			t.Errorf("%d %s", code, body)
		}
		var holds search.HoldListing
		if code, body := do("GET", "auditor /api/v1/log/holds", &holds); code != 200 || len(holds.Holds) != 0 {
			t.Errorf("%d %s", code, body)
		}
		if code, body := do("GET", "auditor /api/v1/log/holds?released=true", &holds); code != 200 || len(holds.Holds) != 1 || holds.Holds[0].ReleaseReason != "because" {
			t.Errorf("%d %s", code, body)
		}
		var done search.Erasure
		if code, body := f.send(t, do, "POST", "/api/v1/log/erase", `{"subject":"max","reason":"asked"}`, &done); code != 200 || done.Keys != 1 || done.Payloads != 1 || done.Event == "" {
			t.Errorf("%d %s", code, body)
		}
		var run search.RunListing
		if code, body := do("GET", "auditor /api/v1/log/runs/run_1", &run); code != 200 || !run.Events[0].Payloads[0].Erased || run.Events[0].Payloads[1].Erased || run.Events[0].Payloads[1].Level != "digest" {
			t.Errorf("%d %s", code, body)
		}
		var v search.Verification
		if code, body := do("POST", "auditor /api/v1/log/verify", &v); code != 200 || !v.OK || v.Erased != 1 || v.Unkept != 1 {
			t.Errorf("%d %s", code, body)
		}
		var r search.Retention
		if code, body := do("GET", "auditor /api/v1/log/retention", &r); code != 200 || r.Days != 400 || r.Floor != 183 {
			t.Errorf("%d %s", code, body)
		}
		for body, want := range map[string]int{`{"days":500}`: 200, `{"days":0}`: 422, `{"days":40000}`: 422} {
			if code, answer := f.send(t, do, "PUT", "/api/v1/log/retention", body, nil); code != want {
				t.Errorf("%s: %d %s", body, code, answer)
			}
		}
	})
}

// send is do with a body, as an administrator who says why in the header only
// when there is none.
func (f *fixture) send(t *testing.T, do func(method, path string, into any) (int, string), method, path, body string, into any) (int, string) {
	t.Helper()
	f.body = body
	defer func() { f.body = "" }()
	return do(method, "admin "+path, into)
}
