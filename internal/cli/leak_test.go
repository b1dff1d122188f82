package cli_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/cli"
)

// A value that is no text, or is cut in the middle of a letter, is sent all the
// same: the server takes valid UTF-8 alone.
func TestReportsOfWhatIsNoText(t *testing.T) {
	for what, text := range map[string]string{"bytes": "token=\xff\xfe csk_x", "a long line": "x" + strings.Repeat("\u00e9", 40<<10)} {
		_, items, err := cli.LeaksIn("f", []byte(text))
		if err != nil || len(items) != 1 || !utf8.ValidString(items[0].Value) || len(items[0].Value) > 64<<10 {
			t.Errorf("%s: %d items, %v", what, len(items), err)
		}
	}
}

// FuzzReport: whatever a scanner wrote, what is sent is what the server takes.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`[{"Secret":"csk_x","Match":"k=csk_x","File":".env","StartLine":3,"Commit":"c"}]`))
	f.Add([]byte(`{"runs":[{"results":[{"message":{"text":"m"},"locations":[{"physicalLocation":{"artifactLocation":{"uri":"a"},"region":{"startLine":1,"snippet":{"text":"csk_x"}}}}]}]}]}`))
	f.Add([]byte("csk_x\n\n\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, items, err := cli.LeaksIn("f", text)
		if err != nil {
			return
		}
		for _, it := range items {
			if it.Value == "" || len(it.Value) > 64<<10 || !utf8.ValidString(it.Value) {
				t.Errorf("%q", it.Value)
			}
		}
	})
}
