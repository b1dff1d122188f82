package audit_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestTamperingIsFound(t *testing.T) {
	cases := []struct {
		name string
		sql  []string // $ is the lane
		want string   // of the first problem: "sn: message"
	}{
		{"record changed", []string{`UPDATE events SET record = $1 WHERE lane = $ AND sn = 5`}, "5: the record, its place or one before"},
		{"record deleted", []string{`DELETE FROM events WHERE lane = $ AND sn = 5`}, "5: missing"},
		{"first deleted", []string{`DELETE FROM events WHERE lane = $ AND sn = 1`}, "1: missing"},
		{"tail cut", []string{`DELETE FROM events WHERE lane = $ AND sn > 8`}, "9: missing; the lane ends at 10"},
		{"all deleted", []string{`DELETE FROM events WHERE lane = $`}, "1: missing"},
		{"deleted and closed up", []string{`DELETE FROM events WHERE lane = $ AND sn = 10`, `UPDATE lanes SET sn = 9 WHERE lane = $`}, "9: the lane's head does not match"},
		{"two swapped", []string{`UPDATE events SET sn = -5 WHERE lane = $ AND sn = 5`, `UPDATE events SET sn = 5 WHERE lane = $ AND sn = 6`, `UPDATE events SET sn = 6 WHERE lane = $ AND sn = -5`}, "5: the record, its place"},
		{"chain changed", []string{`UPDATE events SET chain = $1 WHERE lane = $ AND sn = 5`}, "5: the record, its place"},
		{"head's chain changed", []string{`UPDATE lanes SET chain = (SELECT chain FROM events WHERE lane = $ AND sn = 1) WHERE lane = $`}, "10: the lane's head"},
		{"column changed", []string{`UPDATE events SET agent = 'other' WHERE lane = $ AND sn = 5`}, "5: a column was changed"},
		{"time changed", []string{`UPDATE events SET at = at + 1 WHERE lane = $ AND sn = 5`}, "5: a column was changed"},
		{"payload changed", []string{`UPDATE payloads SET body = $1 WHERE lane = $ AND sn = 5`}, `5: payload "arguments" was changed`},
		{"payload's salt changed", []string{`UPDATE payloads SET salt = $1 WHERE lane = $ AND sn = 5`}, `5: payload "arguments" was changed`},
		{"payload's body deleted", []string{`UPDATE payloads SET body = NULL WHERE lane = $ AND sn = 5`}, `5: payload "arguments" is gone, and no event says`},
		{"payload in plain", []string{`UPDATE payloads SET body = $1, salt = $1, key = 0 WHERE lane = $ AND sn = 5`}, `5: payload "arguments" was changed: it does not match`},
		{"payload of another record", []string{`UPDATE payloads SET body = (SELECT body FROM payloads WHERE lane = $ AND sn = 6), key = (SELECT key FROM payloads WHERE lane = $ AND sn = 6) WHERE lane = $ AND sn = 5`}, `5: payload "arguments" was changed: it does not open`},
		{"payload under another key", []string{`UPDATE payloads SET key = (SELECT key FROM payloads WHERE lane = $ AND sn = 6) WHERE lane = $ AND sn = 5`}, `5: payload "arguments" was changed: it does not open`},
		{"key deleted", []string{`DELETE FROM payload_keys WHERE id = (SELECT key FROM payloads WHERE lane = $ AND sn = 5)`}, `5: payload "arguments" cannot be read: its key is missing`},
		{"key changed", []string{`UPDATE payload_keys SET sealed = $1 WHERE id = (SELECT key FROM payloads WHERE lane = $ AND sn = 5)`}, `5: payload "arguments" cannot be read: its key was altered`},
		{"key swapped", []string{`UPDATE payload_keys SET sealed = (SELECT sealed FROM payload_keys WHERE id = (SELECT key FROM payloads WHERE lane = $ AND sn = 6)) WHERE id = (SELECT key FROM payloads WHERE lane = $ AND sn = 5)`}, `5: payload "arguments" cannot be read: its key was altered`},
		{"key destroyed without a word", []string{`UPDATE payload_keys SET sealed = NULL, destroyed = 1 WHERE id = (SELECT key FROM payloads WHERE lane = $ AND sn = 5)`}, `5: payload "arguments" is gone, and no event says`},
		{"payload row deleted", []string{`DELETE FROM payloads WHERE lane = $ AND sn = 5`}, "5: 0 payloads stand beside"},
		{"payload added", []string{`INSERT INTO payloads (lane, sn, n, name, salt, body) VALUES ($, 5, 1, 'x', $1, $1)`}, "5: 2 payloads stand beside"},
		{"payload renamed", []string{`UPDATE payloads SET name = 'x' WHERE lane = $ AND sn = 5`}, `5: payload "arguments" is not where`},
		{"record added after the head", []string{`INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record) SELECT lane, 11, 'evt_x', type, '', '', '', at, chain, record FROM events WHERE lane = $ AND sn = 5`}, "11: a record stands outside"},
		{"record added before the first", []string{`INSERT INTO events (lane, sn, id, type, call, run, agent, at, chain, record) SELECT lane, 0, 'evt_x', type, '', '', '', at, chain, record FROM events WHERE lane = $ AND sn = 5`}, "10: a record stands outside"},
		{"lane deleted", []string{`DELETE FROM lanes WHERE lane = $`}, "10: the lane of this record is missing"},
		{"lane and records deleted", []string{`DELETE FROM lanes WHERE lane = $`, `DELETE FROM events WHERE lane = $`}, "0: the lane is missing"},
		{"nothing", nil, ""},
	}
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		o := options(t)
		o.Lanes = 2
		l := open(t, db, o)
		for i := range 20 {
			if i == 10 {
				l.PassBy(0) // half of them stand in the other lane
			}
			if _, err := l.Append(ctx, audit.Event{Type: audit.CallDenied, Agent: fmt.Sprint(i)}, audit.Payload{Name: "arguments", Body: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		saved := save(t, db)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				restore(t, db, saved)
				tamper(t, db, c.sql)
				rep, err := l.Verify(ctx, nil)
				if err != nil {
					t.Fatal(err)
				}
				if c.want == "" {
					if len(rep.Problems) > 0 || rep.Erased != 0 || rep.Payloads != 20 || rep.Events != 20 {
						t.Errorf("%+v", rep)
					}
					return
				}
				if len(rep.Problems) != 1 || !strings.HasPrefix(fmt.Sprintf("%d: %s", rep.Problems[0].SN, rep.Problems[0].Message), c.want) || rep.Problems[0].Lane != 1 {
					t.Errorf("got %+v, want %s", rep.Problems, c.want)
				}
			})
		}
	})
}

func tamper(t *testing.T, db *storage.DB, statements []string) {
	t.Helper()
	ctx := context.Background()
	if err := db.Tx(ctx, func(tx *storage.Tx) error {
		for _, q := range statements {
			var args []any
			if strings.Contains(q, "$1") {
				args = append(args, []byte(`{"schema":1,"id":"evt_x"}`))
			}
			if _, err := tx.Exec(ctx, strings.NewReplacer("$1", "$1", "$", "1").Replace(q), args...); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

var ledger = map[string]string{
	"lanes":        "lane, holder, epoch, until, sn, chain, clean_sn",
	"events":       "lane, sn, id, type, call, run, agent, at, chain, record",
	"payloads":     "lane, sn, n, name, salt, body, key",
	"payload_keys": "id, kind, name, sealed, created, destroyed",
}

func save(t *testing.T, db *storage.DB) map[string][][]any {
	t.Helper()
	saved := map[string][][]any{}
	for table, columns := range ledger {
		rows, err := db.Query(context.Background(), `SELECT `+columns+` FROM `+table)
		if err != nil {
			t.Fatal(err)
		}
		n := len(strings.Split(columns, ","))
		for rows.Next() {
			row, at := make([]any, n), make([]any, n)
			for i := range row {
				at[i] = &row[i]
			}
			if err := rows.Scan(at...); err != nil {
				t.Fatal(err)
			}
			saved[table] = append(saved[table], row)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close() //nolint:sqlclosecheck // one table at a time
	}
	return saved
}

func restore(t *testing.T, db *storage.DB, saved map[string][][]any) {
	t.Helper()
	ctx := context.Background()
	if err := db.Tx(ctx, func(tx *storage.Tx) error {
		for table, columns := range ledger {
			if _, err := tx.Exec(ctx, `DELETE FROM `+table); err != nil {
				return err
			}
			marks := make([]string, len(strings.Split(columns, ",")))
			for i := range marks {
				marks[i] = fmt.Sprintf("$%d", i+1)
			}
			for _, row := range saved[table] {
				if _, err := tx.Exec(ctx, `INSERT INTO `+table+` (`+columns+`) VALUES (`+strings.Join(marks, ", ")+`)`, row...); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"actor":{"kind":"user"},"id":"evt_1","schema":1,"time":"2026-01-01T00:00:00Z","type":"a.b"}`))
	f.Add([]byte(`{"detail":{"a":[1,2,{}]},"outcome":{"status":"x"},"payloads":[{"name":"a","digest":"b","size":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, err := audit.DecodeRecord(b)
		if err == nil && ev.Time.Year() > 9999 {
			t.Fatal("a time that cannot be written was read")
		}
	})
}
