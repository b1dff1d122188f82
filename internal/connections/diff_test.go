package connections_test

import (
	"encoding/json/jsontext"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/connections"
)

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		name, old, now string
		want           []connections.Line
	}{
		{"order and spacing do not count", `{"a":1, "b":"x"}`, `{"b":"\u0078","a":1}`, nil},
		{"changed text", `{"description":"Pay"}`, `{"description":"Pay twice"}`, []connections.Line{{"/description", `"Pay"`, `"Pay twice"`}}},
		{"nested and escaped path", `{"p":{"a/b":[1,2]}}`, `{"p":{"a/b":[1,3,4]}}`, []connections.Line{{"/p/a~1b/1", "2", "3"}, {"/p/a~1b/2", "", "4"}}},
		{"removed object", `{"p":{"x":{"b":1,"a":2}}}`, `{"p":{}}`, []connections.Line{{"/p/x", `{"a":2,"b":1}`, ""}}},
		{"big integers stay apart", `{"n":9007199254740992}`, `{"n":9007199254740993}`, []connections.Line{{"/n", "9007199254740992", "9007199254740993"}}},
		{"hidden text is shown", `"ok"`, "\"ok\u200b\U000e0041\\u001b[2J\"", []connections.Line{{"", `"ok"`, `"ok\u200b\U000e0041\u001b[2J"`}}},
		{"nothing before", ``, `{"a":1}`, []connections.Line{{"", "", `{"a":1}`}}},
		{"not JSON", `{"a":1}`, `{"a":`, []connections.Line{{"", `{"a":1}`, `"{\"a\":"`}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, connections.Diff(jsontext.Value(c.old), jsontext.Value(c.now))); d != "" {
				t.Error(d)
			}
		})
	}
}

func FuzzDiff(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":null}]}`), []byte(`{"a":[1,{"b":"x\u0000"}],"a~":2}`))
	f.Add([]byte(`{"a":1,"a":2}`), []byte("\xff"))
	f.Add([]byte(strings.Repeat("[", 100)), []byte(strings.Repeat(`{"a":`, 100)))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if lines := connections.Diff(a, a); len(lines) != 0 {
			t.Fatalf("%q differs from itself: %v", a, lines)
		}
		lines := connections.Diff(a, b)
		da, errA := connections.Digest(a)
		db, errB := connections.Digest(b)
		if errA == nil && errB == nil && (da == db) != (len(lines) == 0) {
			t.Fatalf("digests equal %v, but difference %v", da == db, lines)
		}
		for _, l := range lines {
			if strings.ContainsFunc(l.Old+l.New+l.Path, func(r rune) bool { return r < ' ' || r == 0x200b }) {
				t.Fatalf("a hidden character shows through: %q", l)
			}
		}
	})
}
