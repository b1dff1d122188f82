package leaks_test

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/leaks"
)

// FuzzCandidates: a credential between separators is found whatever stands
// around it, and what is tried is bounded.
func FuzzCandidates(f *testing.F) {
	const key = "csk_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_"
	f.Add("export KEY='", "' # do not commit")
	f.Add(`{"headers":{"Authorization":"Bearer `, `"}}`)
	f.Add("https://user:", "@host/")
	f.Fuzz(func(t *testing.T, before, behind string) {
		if len(before) > 1000 || strings.ContainsAny(before+behind, "\x00") {
			return
		}
		got := leaks.Candidates(before + " " + key + " " + behind)
		if !slices.Contains(got, key) {
			t.Errorf("overlooked between %q and %q: %q", before, behind, got)
		}
		if len(got) > 2000 {
			t.Errorf("%d candidates", len(got))
		}
	})
}

// FuzzAlerts: no body breaks the reader, and what it reads goes into events.
func FuzzAlerts(f *testing.F) {
	f.Add([]byte(`[{"token":"csk_x","type":"t","url":"https://github.com/a/b","source":"content"}]`))
	f.Add([]byte(`[{"token":"a","token":"b"}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		items, err := leaks.Alerts(body)
		if err != nil {
			return
		}
		for _, it := range items {
			if where := leaks.Clip(it.Where, 300); it.Value == "" || len(where) > 300 || !utf8.ValidString(where) || strings.ContainsAny(where, "\n\x1b") {
				t.Errorf("%q %q", it.Value, where)
			}
		}
	})
}
