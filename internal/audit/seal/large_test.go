package seal_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Every event that can be recorded now fits into an entry bundle. A log from
// before that limit is sealed, exported and verified; its bundle cannot be served.
func TestLargeRecords(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		l := openLog(t, db)
		s := open(t, db, l, options(t))
		var labels []string
		for i := range 700 {
			labels = append(labels, fmt.Sprint("label ", i, strings.Repeat(" x", 40)))
		}
		ref, err := l.Append(ctx, audit.Event{Type: "test.done", Labels: labels, Reason: strings.Repeat("why ", 2000), Detail: fmt.Appendf(nil, `{"text":"%0100000d"}`, 7)})
		if err != nil {
			t.Fatal(err)
		}
		sealAll(t, s)
		tr, rot := trust(t, s)
		open := fetcher(s.Handler(func(*http.Request) bool { return true }))
		if shown, err := tlog.VerifyTiles(open, tr, rot, true, nil); err != nil || shown.Entries != shown.Size {
			t.Errorf("%+v, %v", shown, err)
		}
		oldRecord(t, db, ref)
		sealAll(t, s)
		mustVerify(t, s)
		var b bytes.Buffer
		if err := s.Export(ctx, 0, false, &b); err != nil {
			t.Fatal(err)
		}
		if shown, err := tlog.VerifyExport(&b, tr, nil); err != nil {
			t.Errorf("%+v, %v", shown, err)
		}
		st, err := s.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/log/"+tlog.Tile{Level: -1, Width: int(st.Size)}.Path(), nil)
		w := httptest.NewRecorder()
		if s.Handler(func(*http.Request) bool { return true }).ServeHTTP(w, r); w.Code != http.StatusRequestEntityTooLarge {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// oldRecord chains a record of 200 KiB after ref, as an older version could.
func oldRecord(t *testing.T, db *storage.DB, ref audit.Ref) {
	t.Helper()
	event := "evt_" + strings.Repeat("7", 26)
	record := fmt.Appendf(nil, `{"actor":{"kind":"system"},"detail":{"text":"%0200000d"},"id":"%s","schema":1,"time":"2026-01-01T00:00:00Z","type":"test.done"}`, 7, event)
	err := db.Tx(t.Context(), func(tx *storage.Tx) error {
		var prev []byte
		if err := tx.QueryRow(t.Context(), `SELECT chain FROM events WHERE lane = $1 AND sn = $2`, ref.Lane, ref.SN).Scan(&prev); err != nil {
			return err
		}
		chain := audit.ChainHash(audit.Hash(prev), ref.Lane, ref.SN+1, audit.LeafHash(record))
		if _, err := tx.Exec(t.Context(), `INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record) VALUES ($1, $2, $3, 'test.done', '', '', '', $4, $5, $6)`,
			ref.Lane, ref.SN+1, event, 1767225600000000, chain[:], record); err != nil {
			return err
		}
		return tx.ExecOne(t.Context(), `UPDATE lanes SET sn = $1, clean_sn = $1, chain = $2 WHERE lane = $3`, ref.SN+1, chain[:], ref.Lane)
	})
	if err != nil {
		t.Fatal(err)
	}
}
