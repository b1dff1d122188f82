package connections_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

const petsDocument = `{"openapi":"3.0.3","paths":{"/pets":{"get":{"operationId":"pets"},"post":{"operationId":"adopt","requestBody":{"content":{"application/json":{"schema":{"type":"object","properties":{"name":{"type":"string"}}}}}}}},"/pets/{id}":{"delete":{"operationId":"release"}}}}`

func (r *room) api(t *testing.T, name, dialect string) {
	t.Helper()
	if _, err := r.Register(ctx, pat, "test", connections.Connection{Name: name, Kind: connections.HTTP, Dialect: dialect, URL: "https://" + name + ".example", Owner: "pat"}); err != nil {
		t.Fatal(err)
	}
}

func TestImport(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := open(t, db)
		r.api(t, "pets", "")
		out, err := r.Import(ctx, pat, "first", "pets", []byte(petsDocument))
		if err != nil || !out.First || !slices.Equal(out.Pinned, []string{"adopt", "pets", "release"}) {
			t.Fatalf("%+v %v", out, err)
		}
		for name, effect := range map[string]string{"adopt": connections.Write, "pets": connections.Read, "release": connections.Write} {
			if got, _ := r.Tool("pets", name); got.Effect != effect || got.Status != connections.StatusPinned || got.PinnedBy != "pat" || got.Digest == "" {
				t.Errorf("%s: %+v", name, got)
			}
		}
		if out, err = r.Import(ctx, pat, "", "pets", []byte(petsDocument)); err != nil || len(out.Same) != 3 || len(out.Changed) > 0 {
			t.Errorf("the same again: %+v %v", out, err)
		}
		// What reads now writes, something is new, something is gone.
		changed := strings.NewReplacer(`"get":{"operationId":"pets"}`, `"put":{"operationId":"pets"}`, `"release"`, `"free"`).Replace(petsDocument)
		if out, err = r.Import(ctx, pat, "", "pets", []byte(changed)); err != nil || !slices.Equal(out.Changed, []string{"pets"}) || !slices.Equal(out.New, []string{"free"}) || !slices.Equal(out.Gone, []string{"release"}) {
			t.Errorf("changed: %+v %v", out, err)
		}
		if got, _ := r.Tool("pets", "pets"); got.Status != connections.StatusDrifted {
			t.Errorf("pets: %+v", got)
		}
		if err := r.Accept(ctx, pat, "looked", "pets", "pets"); err != nil {
			t.Fatal(err)
		}
		if got, _ := r.Tool("pets", "pets"); got.Status != connections.StatusPinned || got.Effect != connections.Write {
			t.Errorf("accepted: %+v", got)
		}
	})
}

func TestImportRefused(t *testing.T) {
	r := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	r.api(t, "pets", "")
	r.api(t, "forge", connections.Git)
	for name, c := range map[string]struct {
		conn, doc string
		kind      fault.Kind
	}{
		"no connection":   {"none", petsDocument, fault.NotFound},
		"git":             {"forge", petsDocument, fault.Invalid},
		"no document":     {"pets", "{}", fault.Invalid},
		"another file":    {"pets", `{"openapi":"3.0.3","paths":{"/a":{"get":{"parameters":[{"$ref":"/etc/passwd"}]}}}}`, fault.Invalid},
		"a reserved name": {"pets", `{"openapi":"3.0.3","paths":{"/a":{"get":{"operationId":"mcp:ping"}}}}`, fault.Upstream},
	} {
		if _, err := r.Import(ctx, pat, "", c.conn, []byte(c.doc)); fault.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(r.Tools("pets")); n != 0 {
		t.Errorf("%d tools of refused documents", n)
	}
	if len(r.Tools("forge")) != 3 {
		t.Errorf("git has %v", r.Tools("forge"))
	}
}

func TestList(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := open(t, db)
		r.api(t, "pets", "")
		list := func(lines map[string]string) (changed bool, err error) {
			err = r.log.Change(ctx, func(tx *audit.Tx) error {
				changed, err = r.DeclareTx(ctx, tx, pat, "test", "pets", lines, nil)
				return err
			})
			r.poll()
			return changed, err
		}
		lines := map[string]string{"pets": "GET /pets?limit:integer", "adopt": "POST /pets  json(name!)"}
		if changed, err := list(lines); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if changed, err := list(lines); err != nil || changed {
			t.Errorf("the same again: %v %v", changed, err)
		}
		if got := r.Listed("pets"); got["adopt"] != "POST /pets json(name!)" || len(got) != 2 {
			t.Errorf("listed %v", got)
		}
		if _, err := r.SetEffect(ctx, pat, "cannot be undone", "pets", "adopt", connections.Irreversible); err != nil {
			t.Fatal(err)
		}
		if changed, err := list(map[string]string{"adopt": "POST /pets json(name!, age:integer)"}); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if got, ok := r.Tool("pets", "adopt"); !ok || got.Effect != connections.Irreversible || !strings.Contains(string(got.InputSchema), "age") || got.Status != connections.StatusPinned {
			t.Errorf("adopt: %+v", got)
		}
		if _, ok := r.Tool("pets", "pets"); ok {
			t.Error("what is no longer listed is still there")
		}
		// A document and a list live side by side and cannot name the same.
		if _, err := r.Import(ctx, pat, "", "pets", []byte(petsDocument)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("imported over a listed operation: %v", err)
		}
		if _, err := r.Import(ctx, pat, "", "pets", []byte(petsDocument), "release"); err != nil {
			t.Fatal(err)
		}
		if changed, err := list(nil); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if _, ok := r.Tool("pets", "release"); !ok {
			t.Error("an imported operation went with the listed ones")
		}
		if _, err := list(map[string]string{"release": "DELETE /pets/{id}"}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("listed over an imported operation: %v", err)
		}
		if _, err := list(map[string]string{"x": "GET nowhere"}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a bad line: %v", err)
		}
	})
}

func TestDeclareDocument(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := open(t, db)
		r.api(t, "pets", "")
		declare := func(text string, lines map[string]string, only ...string) (changed bool, lineup []connections.Line, err error) {
			var doc *connections.Document
			if text != "" {
				c, _ := r.Connection("pets")
				if doc, err = connections.ReadDocument(c, []byte(text), only...); err != nil {
					return false, nil, err
				}
			}
			lineup = doc.Compare(r.Documented("pets", doc != nil))
			err = r.log.Change(ctx, func(tx *audit.Tx) error {
				changed, err = r.DeclareTx(ctx, tx, pat, "test", "pets", lines, doc)
				return err
			})
			r.poll()
			return changed, lineup, err
		}
		if changed, lines, err := declare(petsDocument, nil, "adopt", "pets"); err != nil || !changed || len(lines) != 2 || lines[0] != (connections.Line{Path: "adopt", New: "POST /pets"}) {
			t.Fatal(changed, lines, err)
		}
		if changed, lines, err := declare(petsDocument, nil, "adopt", "pets"); err != nil || changed || len(lines) > 0 {
			t.Errorf("the same again: %v %v %v", changed, lines, err)
		}
		// What reads now writes: pinned anew, with what it does raised; what is no
		// longer there goes.
		writes := strings.Replace(petsDocument, `"get":{"operationId":"pets"}`, `"put":{"operationId":"pets"}`, 1)
		changed, lines, err := declare(writes, map[string]string{"note": "POST /notes json(text!)"}, "pets", "release")
		if err != nil || !changed || !slices.ContainsFunc(lines, func(l connections.Line) bool {
			return l == connections.Line{Path: "pets/method", Old: `"GET"`, New: `"PUT"`}
		}) ||
			!slices.Contains(lines, connections.Line{Path: "adopt", Old: "POST /pets"}) || !slices.Contains(lines, connections.Line{Path: "release", New: "DELETE /pets/{id}"}) {
			t.Fatalf("%v %v %v", changed, lines, err)
		}
		if got, ok := r.Tool("pets", "pets"); !ok || got.Effect != connections.Write || got.Status != connections.StatusPinned {
			t.Errorf("pets: %+v", got)
		}
		if _, ok := r.Tool("pets", "adopt"); ok {
			t.Error("what the document no longer has is still there")
		}
		// Nobody imports over what files declare; an import leaves it alone.
		if _, err := r.Import(ctx, pat, "", "pets", []byte(petsDocument), "pets"); fault.KindOf(err) != fault.Invalid {
			t.Errorf("imported over what files declare: %v", err)
		}
		if out, err := r.Import(ctx, pat, "", "pets", []byte(petsDocument), "adopt"); err != nil || len(out.Gone) > 0 {
			t.Fatal(out, err)
		}
		r.poll()
		// Without the document what it declared goes, and what was imported stays.
		if changed, _, err := declare("", nil); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if left := r.Tools("pets"); len(left) != 1 || left[0].Name != "adopt" {
			t.Fatalf("left %+v", left)
		}
		// A document takes the place of what was imported, drifted or not.
		if _, err := r.Import(ctx, pat, "", "pets", []byte(strings.Replace(petsDocument, `"post":{"operationId":"adopt"`, `"patch":{"operationId":"adopt"`, 1)), "adopt"); err != nil {
			t.Fatal(err)
		}
		r.poll()
		if got, _ := r.Tool("pets", "adopt"); got.Status != connections.StatusDrifted {
			t.Fatalf("%+v", got)
		}
		if changed, _, err := declare(petsDocument, nil, "adopt"); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if got, _ := r.Tool("pets", "adopt"); got.Status != connections.StatusPinned || len(got.Drift) > 0 {
			t.Errorf("%+v", got)
		}
		if _, _, err := declare(petsDocument, map[string]string{"adopt": "POST /pets"}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a line and a document with the same name: %v", err)
		}
		if _, _, err := declare(`{"openapi":"3.1.0","paths":{"/a":{"get":{"operationId":"mcp:ping"}}}}`, nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a reserved name: %v", err)
		}
	})
}
