package wire_test

import (
	"bytes"
	"encoding/json/jsontext"
	"io"
	"testing"

	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":[1,"]",{}]}}}`,
		`{"jsonrpc":"2.0","id":"x","result":{"tools":[{"name":"a"},{"name":"b"}]}}`, `[]`, `{}`, `{"id":`, "\xff", `{"a":1,"a":2}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wire.Scan(b)
		if err != nil {
			return
		}
		if !jsontext.Value(b).IsValid() {
			t.Fatal("accepted what the strict reader refuses")
		}
		for _, s := range []wire.Span{m.ID, m.Params, m.Arguments, m.Result, m.Error, m.Meta} {
			if s.Present() && !jsontext.Value(s.Of(b)).IsValid() {
				t.Fatalf("span %v is not a value: %q", s, s.Of(b))
			}
		}
		for _, f := range wire.Members(b, wire.Whole(b)) {
			edited := wire.Splice(b, wire.Edit{At: f.Val, With: []byte("null")})
			if !jsontext.Value(edited).IsValid() {
				t.Fatalf("splice broke the document: %q", edited)
			}
			if items := wire.Items(b, f.Val); len(items) > 0 {
				e, _ := wire.Keep(b, f.Val, items, func(i int) bool { return i%2 == 0 })
				if out := wire.Splice(b, e); !jsontext.Value(out).IsValid() {
					t.Fatalf("filter broke the document: %q", out)
				}
			}
		}
	})
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: a\n\nid: 1\r\ndata: b\r\n\r\n:x\r\r"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, raw := wire.NewReader(bytes.NewReader(b), 1<<20), []byte{}
		for {
			e, err := r.Next()
			if err != nil {
				if err != io.EOF {
					t.Fatal(err)
				}
				break
			}
			raw = append(raw, e.Raw...)
			e.With([]byte("{}"))
		}
		if !bytes.HasPrefix(b, raw) {
			t.Fatal("bytes changed")
		}
	})
}
