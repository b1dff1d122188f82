package connections_test

import (
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestReferences(t *testing.T) {
	r := connections.References{Subject: "customer.email", Objects: map[string]string{"invoice": "lines.*.id", "order": "order"}}
	for _, c := range []struct {
		args, subject string
		objects       []string
	}{
		{`{"customer":{"email":" max@example.org "},"order":7,"lines":[{"id":"A"},{"id":12345678901234567890},{"id":"A"},{"x":1},[]]}`, "max@example.org", []string{"invoice/A", "invoice/12345678901234567890", "order/7"}},
		{`{"customer":"max"}`, "", nil},
		{`{"customer":{"email":null},"order":true,"lines":{"id":"A"}}`, "", nil},
		{`{"customer":[{"email":"max"}]}`, "", nil},
		{`{"order":"a\nb"}`, "", nil},
		{`{"order":"` + strings.Repeat("x", 257) + `","customer":{"email":"` + strings.Repeat("x", 513) + `"}}`, "", nil},
		{`{"Order":1}`, "", nil},
		{`{`, "", nil}, {``, "", nil}, {`[]`, "", nil}, {`{"order":`, "", nil},
	} {
		args := jsontext.Value(c.args)
		if got := r.SubjectOf(args); got != c.subject {
			t.Errorf("%.80s: about %q, want %q", c.args, got, c.subject)
		}
		if got := r.ObjectsOf(args); !slices.Equal(got, c.objects) {
			t.Errorf("%.80s: touches %q, want %q", c.args, got, c.objects)
		}
	}
	many := `{"lines":[` + strings.TrimSuffix(strings.Repeat(`{"id":"%d"},`, 50), ",") + `]}`
	numbers := make([]any, 50)
	for i := range numbers {
		numbers[i] = i
	}
	if got := r.ObjectsOf(jsontext.Value(fmt.Sprintf(many, numbers...))); len(got) != 16 {
		t.Errorf("%d objects", len(got))
	}
}

func TestReferencesAreChecked(t *testing.T) {
	schema := jsontext.Value(`{"type":"object","properties":{"customer":{},"lines":{}}}`)
	seventeen := map[string]string{}
	for i := range 17 {
		seventeen[fmt.Sprintf("a%d", i)] = "lines"
	}
	for field, r := range map[string]connections.References{
		"subject: ":              {Subject: "custmer.email"},
		`"customer..email"`:      {Subject: "customer..email"},
		`".customer"`:            {Subject: ".customer"},
		"256 bytes":              {Subject: "customer." + strings.Repeat("x", 300)},
		"objects.invoice: ":      {Objects: map[string]string{"invoice": ""}},
		`"Invoice" is not`:       {Objects: map[string]string{"Invoice": "lines"}},
		`"in/voice" is not`:      {Objects: map[string]string{"in/voice": "lines"}},
		"at most 16 types":       {Objects: seventeen},
		"it has customer, lines": {Subject: "x"},
	} {
		if _, err := r.Normalize(schema); !errors.Is(err, connections.ErrReferences) || !strings.Contains(err.Error(), field) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	ok := connections.References{Subject: " customer.email ", Objects: map[string]string{"invoice": "lines.*.id"}}
	if got, err := ok.Normalize(schema); err != nil || got.Subject != "customer.email" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, open := range []string{``, `true`, `{}`, `{"properties":7}`} {
		if _, err := ok.Normalize(jsontext.Value(open)); err != nil {
			t.Errorf("schema %q: %v", open, err)
		}
	}
}

// What a person declared survives what the upstream says later.
func TestReferencesOutliveDrift(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := open(t, db)
		r.ledger(def("pay", "Pay"))
		refs := connections.References{Subject: "a", Objects: map[string]string{"invoice": "a"}, Template: "{agent} pays {a}", Proposal: "anomaly"}
		if changed, err := r.SetReferences(ctx, pat, "traced", "ledger", "pay", refs); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if changed, err := r.SetReferences(ctx, pat, "", "ledger", "pay", refs); err != nil || changed {
			t.Fatal(changed, err)
		}
		r.upstream.says(def("pay", "Pay twice"))
		if _, err := r.Refresh(ctx, pat, "", "ledger"); err != nil {
			t.Fatal(err)
		}
		if err := r.Accept(ctx, pat, "seen", "ledger", "pay"); err != nil {
			t.Fatal(err)
		}
		if got := r.tool("pay"); got.Status != connections.StatusPinned || got.References.Subject != "a" || got.References.Objects["invoice"] != "a" ||
			got.References.Template != "{agent} pays {a}" || got.References.Proposal != "anomaly" {
			t.Errorf("%+v", got)
		}
		recs, err := r.log.List(ctx, audit.Query{Types: []audit.Type{"tool.references_set"}})
		if err != nil || len(recs) != 1 || recs[0].Event.Reason != "traced" || !strings.Contains(string(recs[0].Event.Detail), `"subject":["","a"],"template":["","{agent} pays {a}"]`) {
			t.Errorf("%v, %v", recs, err)
		}
	})
}

func FuzzReferences(f *testing.F) {
	f.Add(`{"a":{"b":["x",1]}}`, "a.b.*")
	f.Add(`{"a":`, "a")
	f.Add("{\"\xff\":1}", "*.*")
	f.Fuzz(func(t *testing.T, args, path string) {
		r, err := connections.References{Subject: path, Objects: map[string]string{"o": path}}.Normalize(nil)
		if err != nil {
			return
		}
		if s := r.SubjectOf(jsontext.Value(args)); len(s) > connections.MaxSubject || strings.TrimSpace(s) != s {
			t.Errorf("subject %q", s)
		}
		for _, o := range r.ObjectsOf(jsontext.Value(args)) {
			if !strings.HasPrefix(o, "o/") || strings.ContainsAny(o, "\n\x00") || !utf8.ValidString(o) {
				t.Errorf("object %q", o)
			}
		}
	})
}
