package seal_test

import (
	"bytes"
	"encoding/json/v2"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Who has payloads can compare them with the commitments, offline, and learns
// which one was changed.
func TestExportedPayloadsAreVerified(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		l := openLog(t, db)
		s := open(t, db, l, options(t))
		var last audit.Ref
		for _, subject := range []string{"max", "lisa", "max"} {
			var err error
			last, err = l.Append(ctx, audit.Event{Type: "test.done", Actor: person, Agent: "a"},
				audit.Payload{Name: "arguments", Body: []byte(`{"to":"` + subject + `"}`), Subject: subject}, audit.Payload{Name: "secretive", Body: []byte("x"), Level: audit.Digest}, audit.Payload{Name: "answer", Body: []byte{0xff, 0, 1}})
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Erase(ctx, audit.System, "asked", audit.Erasure{Subject: "lisa"}); err != nil {
			t.Fatal(err)
		}
		sealAll(t, s)
		tr, _ := trust(t, s)
		file := exported(t, s, true)
		if shown, err := tlog.VerifyExport(bytes.NewReader(file), tr, nil); err != nil || shown.Payloads != 5 || shown.Erased != 1 {
			t.Fatalf("%+v, %v", shown, err)
		}
		if shown, err := tlog.VerifyExport(bytes.NewReader(exported(t, s, false)), tr, nil); err != nil || shown.Payloads+shown.Erased != 0 {
			t.Errorf("%+v, %v", shown, err)
		}
		for name, c := range map[string]struct {
			change func(*tlog.ExportLine)
			want   string
		}{
			"a body":          {func(l *tlog.ExportLine) { l.Payloads[0].Body[3] ^= 1 }, `"arguments" was changed`},
			"a salt":          {func(l *tlog.ExportLine) { l.Payloads[1].Salt[0] ^= 1 }, `"answer" was changed`},
			"one gone":        {func(l *tlog.ExportLine) { l.Payloads = l.Payloads[1:] }, `"arguments" is missing`},
			"all gone":        {func(l *tlog.ExportLine) { l.Payloads = nil }, `"arguments" is missing`},
			"one too many":    {func(l *tlog.ExportLine) { l.Payloads = append(l.Payloads, l.Payloads[0]) }, `"arguments" is not in the record`},
			"exchanged":       {func(l *tlog.ExportLine) { l.Payloads[0], l.Payloads[1] = l.Payloads[1], l.Payloads[0] }, `"arguments" is missing`},
			"named otherwise": {func(l *tlog.ExportLine) { l.Payloads[0].Name = "answer" }, `"arguments" is missing`},
		} {
			forged := altered(t, file, last, c.change)
			if _, err := tlog.VerifyExport(bytes.NewReader(forged), tr, nil); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "record ") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := db.Tx(ctx, func(tx *storage.Tx) error {
			return tx.ExecOne(ctx, `UPDATE payloads SET body = $1 WHERE lane = $2 AND sn = $3 AND n = 0`, bytes.Repeat([]byte{1}, 99), last.Lane, last.SN)
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := tlog.VerifyExport(bytes.NewReader(exported(t, s, true)), tr, nil); err == nil || !strings.Contains(err.Error(), `"arguments" was changed: it does not open`) {
			t.Error(err)
		}
	})
}

func exported(t *testing.T, s *seal.Service, payloads bool) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Export(t.Context(), 0, payloads, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// altered returns an export in which the line of one record is another.
func altered(t *testing.T, file []byte, at audit.Ref, fn func(*tlog.ExportLine)) []byte {
	t.Helper()
	var out bytes.Buffer
	for text := range bytes.Lines(file) {
		var l tlog.ExportLine
		if out.Len() == 0 || json.Unmarshal(text, &l) != nil || l.Lane != at.Lane || l.SN != at.SN {
			out.Write(text)
			continue
		}
		fn(&l)
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(b, '\n'))
	}
	return out.Bytes()
}
