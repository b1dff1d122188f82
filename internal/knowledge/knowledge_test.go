package knowledge_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/knowledge"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
)

func room(t *testing.T, db *storage.DB) (*knowledge.Service, *line.Line) {
	t.Helper()
	l := line.Start(t, db, line.Options{})
	s, err := knowledge.New(db, l.Log, l.Connections, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	l.Register(connections.Connection{Name: "handbook", Kind: connections.Retrieval, Dialect: connections.Embedded, Owner: "pat"})
	l.Register(connections.Connection{Name: "api", Kind: connections.HTTP, URL: "http://127.0.0.1:9", AllowPrivate: true, Owner: "pat"})
	return s, l
}

func found(t *testing.T, s *knowledge.Service, q knowledge.Query) []string {
	t.Helper()
	ids := []string{}
	if err := s.Search(t.Context(), "handbook", q, func(d knowledge.Document) bool { ids = append(ids, d.ID); return true }); err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestDocumentsArePutReplacedAndRemoved(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		s, l := room(t, db)
		ctx := t.Context()
		put := func(docs ...knowledge.Document) []string {
			t.Helper()
			changed, err := s.Put(ctx, line.By, line.Reason, "handbook", docs)
			if err != nil {
				t.Fatal(err)
			}
			return changed
		}
		d := knowledge.Document{ID: "a/b.md", Text: "penguins march", Readers: []string{"user:ann", "everyone", "user:ann"}}
		if got := put(d); !slices.Equal(got, []string{"a/b.md"}) {
			t.Fatalf("changed %v", got)
		}
		if got := put(d); len(got) != 0 {
			t.Errorf("put again: changed %v", got)
		}
		everyone := []string{"everyone"}
		if got := found(t, s, knowledge.Query{Words: knowledge.Words("penguin"), Readers: everyone}); len(got) != 1 {
			t.Errorf("found %v", got)
		}
		d.Text, d.Readers = "walrus sleeps", []string{"user:ann"}
		put(d)
		for _, c := range []struct {
			words   string
			readers []string
			want    int
		}{{"penguin", []string{"user:ann"}, 0}, {"walrus", everyone, 0}, {"walrus", []string{"user:ann"}, 1}, {"walrus", nil, 0}, {"", []string{"user:ann"}, 0}} {
			if got := found(t, s, knowledge.Query{Words: knowledge.Words(c.words), Readers: c.readers}); len(got) != c.want {
				t.Errorf("%q for %v: found %v", c.words, c.readers, got)
			}
		}
		if _, err := s.Get(ctx, "handbook", "a/b.md", everyone); !errors.Is(err, knowledge.ErrNotFound) {
			t.Errorf("get for another: %v", err)
		}
		if got, err := s.Get(ctx, "handbook", "a/b.md", []string{"user:ann"}); err != nil || got.Text != "walrus sleeps" {
			t.Errorf("get: %v %v", got, err)
		}
		if err := s.Remove(ctx, line.By, "", "handbook", "a/b.md"); !errors.Is(err, knowledge.ErrReason) {
			t.Errorf("removed without a reason: %v", err)
		}
		if err := s.Remove(ctx, line.By, line.Reason, "handbook", "a/b.md"); err != nil {
			t.Fatal(err)
		}
		if got := found(t, s, knowledge.Query{Words: knowledge.Words("walrus"), Readers: []string{"user:ann"}}); len(got) != 0 {
			t.Errorf("after it was removed: %v", got)
		}
		for _, ev := range l.Events(3, "document.created", "document.updated", "document.removed") {
			if ev.Event.Object != "document/handbook/a/b.md" || strings.Contains(string(ev.Event.Detail), "walrus") || !strings.Contains(string(ev.Event.Detail), "user:ann") {
				t.Errorf("%s: %s %s", ev.Event.Type, ev.Event.Object, ev.Event.Detail)
			}
		}
	})
}

func TestADeletedConnectionTakesItsDocumentsAlong(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		s, l := room(t, db)
		ctx := t.Context()
		if _, err := s.Put(ctx, line.By, line.Reason, "handbook", []knowledge.Document{{ID: "a", Text: "penguins", Readers: []string{"everyone"}}}); err != nil {
			t.Fatal(err)
		}
		if err := l.Connections.Delete(ctx, line.By, line.Reason, "handbook"); err != nil {
			t.Fatal(err)
		}
		l.Register(connections.Connection{Name: "handbook", Kind: connections.Retrieval, Dialect: connections.Embedded, Owner: "pat"})
		if docs, err := s.List(ctx, "handbook"); err != nil || len(docs) != 0 {
			t.Errorf("%v %v", docs, err)
		}
		if got := found(t, s, knowledge.Query{Words: []string{"penguins"}, Readers: []string{"everyone"}}); len(got) != 0 {
			t.Errorf("found %v", got)
		}
	})
}

func TestBadDocumentsChangeNothing(t *testing.T) {
	s, l := room(t, storagetest.Open(t, filepath.Join(t.TempDir(), "c.db")))
	good := knowledge.Document{ID: "good", Text: "x", Readers: []string{"everyone"}}
	with := func(change func(*knowledge.Document)) []knowledge.Document {
		d := good
		d.ID = "bad"
		change(&d)
		return []knowledge.Document{good, d}
	}
	for name, docs := range map[string][]knowledge.Document{
		"none":            {},
		"twice":           {good, good},
		"no id":           with(func(d *knowledge.Document) { d.ID = "" }),
		"space in id":     with(func(d *knowledge.Document) { d.ID = "a b" }),
		"hidden in id":    with(func(d *knowledge.Document) { d.ID = "a\u200bb" }),
		"long id":         with(func(d *knowledge.Document) { d.ID = strings.Repeat("a", 201) }),
		"no text":         with(func(d *knowledge.Document) { d.Text = " \n" }),
		"long text":       with(func(d *knowledge.Document) { d.Text = strings.Repeat("a", knowledge.MaxText+1) }),
		"NUL":             with(func(d *knowledge.Document) { d.Text = "a\x00b" }),
		"not UTF-8":       with(func(d *knowledge.Document) { d.Text = "a\xff" }),
		"two lines":       with(func(d *knowledge.Document) { d.Title = "a\nb" }),
		"reader":          with(func(d *knowledge.Document) { d.Readers = []string{"ann"} }),
		"reader's kind":   with(func(d *knowledge.Document) { d.Readers = []string{"role:admin"} }),
		"empty reader":    with(func(d *knowledge.Document) { d.Readers = []string{"user:"} }),
		"reader's spaces": with(func(d *knowledge.Document) { d.Readers = []string{"user:a b"} }),
		"classification":  with(func(d *knowledge.Document) { d.Classification = "Secret" }),
		"source":          with(func(d *knowledge.Document) { d.Source = "mostly" }),
		"owner":           with(func(d *knowledge.Document) { d.Owner = "a\tb" }),
	} {
		if _, err := s.Put(t.Context(), line.By, line.Reason, "handbook", docs); !errors.Is(err, knowledge.ErrDocument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"api", "nothing"} {
		_, err := s.Put(t.Context(), line.By, line.Reason, name, []knowledge.Document{good})
		if _, ok := errors.AsType[*fault.Error](err); !ok {
			t.Errorf("into %s: %v", name, err)
		}
		if _, err := s.List(t.Context(), name); err == nil {
			t.Errorf("list of %s", name)
		}
	}
	if docs, err := s.List(t.Context(), "handbook"); err != nil || len(docs) != 0 {
		t.Errorf("%v %v", docs, err)
	}
	l.Events(0, audit.Type("document.created"))
}
