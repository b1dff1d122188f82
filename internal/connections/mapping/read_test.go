package mapping_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/connections/mapping"
)

// A document that names no readers is everyone's if the mapping says so. One
// that says something which nobody understands is nobody's.
func TestWhoMayReadIsUnderstoodOrNobody(t *testing.T) {
	m := mapping.Mapping{Unlisted: mapping.Everyone, Fields: mapping.Fields{ID: "id", Text: "text", Readers: "acl.readers.*.name"}}
	for acl, want := range map[string]string{
		``:                        "everyone",
		`,"acl":null`:             "everyone",
		`,"acl":{}`:               "everyone",
		`,"acl":{"readers":null}`: "everyone",
		`,"acl":{"readers":[]}`:   "everyone",
		`,"acl":{"readers":[{"name":"user:ann"}]}`: "user:ann",
		`,"acl":{"readers":[{"name":""}]}`:         "nobody",
		`,"acl":{"readers":[{"name":null}]}`:       "left out",
		`,"acl":{"readers":[{"id":5}]}`:            "left out",
		`,"acl":{"readers":["user:ann"]}`:          "left out",
		`,"acl":{"readers":"user:ann"}`:            "left out",
		`,"acl":{"readers":{}}`:                    "left out",
		`,"acl":"private"`:                         "left out",
		`,"acl":["private"]`:                       "left out",
		`,"acl":{"readers":[{"name":{}}]}`:         "left out",
		`,"acl":{"readers":[{"name":true}]}`:       "left out",
	} {
		docs, err := m.Read([]byte(`[{"id":"1","text":"t"`+acl+`}]`), "")
		got := "left out"
		if len(docs) == 1 {
			got = strings.Join(docs[0].Readers, " ")
		}
		if err != nil || got != want {
			t.Errorf("%s: %s (%v), want %s", acl, got, err, want)
		}
	}
}

// The same of columns: an empty name is a name.
func TestAnEmptyNameIsNobody(t *testing.T) {
	m := mapping.Mapping{Unlisted: mapping.Everyone}
	d, ok := m.Named(mapping.Document{ID: "1", Text: "t"}, nil, []string{""}, nil)
	if !ok || slices.Contains(d.Readers, mapping.Everyone) || len(d.Readers) != 1 {
		t.Errorf("%v %v", d.Readers, ok)
	}
	if d, ok := m.Named(mapping.Document{ID: "1", Text: "t"}, nil, nil, nil); !ok || !slices.Equal(d.Readers, []string{mapping.Everyone}) {
		t.Errorf("%v %v", d.Readers, ok)
	}
}

// Whatever an engine answers, what is read of it has an id, a text and readers
// that stand in it.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		`{"hits":[{"id":"1","text":"a","readers":["user:ann"]}]}`,
		`{"hits":[{"id":9007199254740993,"text":"a","readers":"everyone"}]}`,
		`{"hits":[{"id":"1","text":"a","readers":[["everyone"]]}]}`,
		`{"hits":{"id":"1"}}`, `[[[[[`, `{"hits":[{"id":"1","id":"2","text":"x"}]}`,
	} {
		f.Add([]byte(s), "readers", "hits")
		f.Add([]byte(s), "readers.*.name", "hits.*")
	}
	f.Fuzz(func(t *testing.T, answer []byte, readers, results string) {
		m := mapping.Mapping{Fields: mapping.Fields{ID: "id", Text: "text", Readers: readers}}
		docs, err := m.Read(answer, results)
		if err != nil {
			return
		}
		if len(docs) > mapping.MaxResults {
			t.Fatalf("%d documents", len(docs))
		}
		for _, d := range docs {
			if d.ID == "" || d.Text == "" || d.Source != "untrusted" || len(d.Readers) > 1001 {
				t.Fatalf("%+v", d)
			}
			if slices.Contains(d.Readers, mapping.Everyone) && !strings.Contains(string(answer), "e") && !strings.Contains(string(answer), `\u`) {
				t.Fatalf("readers from nowhere: %+v", d)
			}
		}
	})
}
