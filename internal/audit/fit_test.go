package audit_test

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// largest returns an event that is large in every way a caller can make it.
func largest(t *testing.T) audit.Event {
	long := strings.Repeat("\x01", 10<<10) // six bytes each, once escaped
	ev := everyString(t, long[:10<<10])
	ev.Type, ev.Call, ev.Run = "", "call_x", "run_x"
	for i := range 1000 {
		if i%20 == 0 {
			ev.Labels = append(ev.Labels, long[:9000])
		}
		ev.Decision.Policies = append(ev.Decision.Policies, "policy")
		ev.OnBehalfOf = append(ev.OnBehalfOf, audit.Person(long[:100], long[:100]))
	}
	detail := map[string]any{"code": "kept", "text": strings.Repeat("word ", 30<<10), "cut": "mine"}
	for i := range 400 {
		detail[fmt.Sprintf("name%d%s", i, strings.Repeat("\x02", 30))] = strings.Repeat("x", 20)
	}
	var err error
	if ev.Detail, err = json.Marshal(detail); err != nil {
		t.Fatal(err)
	}
	return ev
}

func checkFits(t *testing.T, r audit.Record) {
	t.Helper()
	if len(r.Raw) > audit.MaxRecord {
		t.Errorf("%s: %d bytes", r.Event.Type, len(r.Raw))
	}
	canonical := jsontext.Value(bytes.Clone(r.Raw))
	if err := canonical.Canonicalize(); err != nil || !bytes.Equal(canonical, r.Raw) {
		t.Errorf("%s: not canonical, %v", r.Event.Type, err)
	}
}

// Whatever an event holds, its record fits into an entry bundle and is written.
func TestEveryRecordFits(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		l := open(t, db, options(t))
		var many []audit.Payload
		for i := range 200 {
			many = append(many, audit.Payload{Name: strings.Repeat("\x03", 64), Body: fmt.Appendf(nil, "body %d", i)})
		}
		ev := largest(t)
		r, err := l.Intent(ctx, ev, many...)
		if err != nil {
			t.Fatal(err)
		}
		ev.Call = ""
		l.Outcome(r, ev, many...)
		ev.Type = "test.done"
		ref, err := l.Append(ctx, ev)
		if err != nil {
			t.Fatal(err)
		}
		ev.Type = "test.hurried"
		l.Later(ev)
		ev.Type = "test.changed"
		if err := l.Change(ctx, func(tx *audit.Tx) error { tx.Record(ev, many...); return nil }); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool {
			recs, err := l.List(ctx, audit.Query{Limit: 10})
			return err == nil && len(recs) == 5
		})
		recs, err := l.List(ctx, audit.Query{Payloads: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			checkFits(t, rec)
			var d struct {
				Code string `json:"code"`
				Cut  struct {
					Bytes   int    `json:"bytes"`
					Payload string `json:"payload"`
					SHA256  string `json:"sha256"`
				} `json:"cut"`
			}
			if err := json.Unmarshal(rec.Event.Detail, &d); err != nil || d.Code != "kept" || d.Cut.Bytes < 150<<10 {
				t.Errorf("%s: detail %.300s, %v", rec.Event.Type, rec.Event.Detail, err)
			}
			moved := rec.Payloads["detail"]
			if rec.Event.Type == "test.hurried" {
				if d.Cut.SHA256 == "" || moved != nil {
					t.Errorf("%s: %+v", rec.Event.Type, d)
				}
			} else if d.Cut.Payload != "detail" || !bytes.Contains(moved, []byte(`"cut":"mine"`)) || !bytes.Contains(moved, []byte(`"text":"word word`)) {
				t.Errorf("%s: %+v, %.100s", rec.Event.Type, d, moved)
			}
			if !strings.HasPrefix(rec.Event.Reason, "sha256:") && !strings.Contains(rec.Event.Reason, "…sha256:") {
				t.Errorf("the reason is %.100q", rec.Event.Reason)
			}
			if last := rec.Event.Labels[len(rec.Event.Labels)-1]; !strings.Contains(last, "more, sha256:") && !strings.HasPrefix(last, "sha256:") {
				t.Errorf("the last label is %q", last)
			}
			if rec.Event.Type == "test.changed" && len(rec.Event.Payloads) != 33 {
				t.Errorf("%d payloads", len(rec.Event.Payloads))
			}
		}
		if rec, err := l.Get(ctx, ref.ID); err != nil || rec.Event.Type != "test.done" {
			t.Error(rec.Event.Type, err)
		}
		mustVerify(t, l)
	})
}

// A secret that is longer than what is kept of a text must not leave its
// beginning there.
func TestTextsAreCutAfterRedaction(t *testing.T) {
	l := open(t, storagetest.Open(t, storagetest.SQLite(t)), options(t))
	for _, before := range []int{8 << 10, 8<<10 - 10, 8<<10 - 90} {
		ref, err := l.Append(t.Context(), audit.Event{Type: "test.done", Reason: strings.Repeat("x", before) + secret + strings.Repeat("y", 9000)})
		if err != nil {
			t.Fatal(err)
		}
		rec, err := l.Get(t.Context(), ref.ID)
		if err != nil || bytes.Contains(rec.Raw, []byte("hunter2")) || !strings.Contains(rec.Event.Reason, "…sha256:") || len(rec.Event.Reason) > 8<<10 {
			t.Errorf("%v %s", err, rec.Raw)
		}
	}
}

// A log written when records could be larger is read and verified as before.
func TestOldLargeRecordsStillVerify(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		l := open(t, db, options(t))
		ref, err := l.Append(ctx, audit.Event{Type: "test.done"})
		if err != nil {
			t.Fatal(err)
		}
		l.Close(ctx)
		old := appendRaw(t, db, ref.Lane, ref.SN, 200<<10)
		l = open(t, db, options(t))
		if rec, err := l.Get(ctx, old); err != nil || len(rec.Raw) < 200<<10 {
			t.Fatal(len(rec.Raw), err)
		}
		if _, err := l.Append(ctx, audit.Event{Type: "test.done"}); err != nil {
			t.Fatal(err)
		}
		if rep := mustVerify(t, l); rep.Events != 3 {
			t.Error(rep.Events)
		}
	})
}

// appendRaw chains a record of about n bytes to the end of a lane, as an older
// version would have, and returns its identifier. No log may be open.
func appendRaw(t *testing.T, db *storage.DB, lane, sn int64, n int) string {
	t.Helper()
	event := "evt_" + strings.Repeat("7", 26)
	record := []byte(`{"actor":{"kind":"system"},"detail":{"text":"` + strings.Repeat("x", n) + `"},"id":"` + event + `","schema":1,"time":"2026-01-01T00:00:00Z","type":"test.done"}`)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	err := db.Tx(t.Context(), func(tx *storage.Tx) error {
		var prev []byte
		if err := tx.QueryRow(t.Context(), `SELECT chain FROM events WHERE lane = $1 AND sn = $2`, lane, sn).Scan(&prev); err != nil {
			return err
		}
		chain := audit.ChainHash(audit.Hash(prev), lane, sn+1, audit.LeafHash(record))
		if _, err := tx.Exec(t.Context(), `INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record) VALUES ($1, $2, $3, 'test.done', '', '', '', $4, $5, $6)`,
			lane, sn+1, event, storage.Micros(at), chain[:], record); err != nil {
			return err
		}
		return tx.ExecOne(t.Context(), `UPDATE lanes SET sn = $1, clean_sn = $1, chain = $2 WHERE lane = $3`, sn+1, chain[:], lane)
	})
	if err != nil {
		t.Fatal(err)
	}
	return event
}
