package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/manifest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

const shopDocument = `openapi: 3.1.0
paths:
  /orders:
    get: {operationId: orders/list, parameters: [{name: page, in: query, schema: {type: integer}}]}
    post: {operationId: orders/create, requestBody: {required: true, content: {application/json: {schema: {type: object, required: [item], properties: {item: {type: string}, amount: {type: integer}}}}}}}
  /orders/{id}:
    delete: {operationId: orders/cancel}
  /admin:
    get: {operationId: admin}
`

// shop is an http connection whose operations a document declares.
func shop(document string, spec string, more ...string) manifest.Request {
	return manifest.Request{Files: []manifest.File{
		{Name: "firm/shop.yaml", Text: `kind: User
name: sam
spec: {role: owner}
---
kind: Agent
name: helper
spec: {owner: sam, stage: production}
---
kind: Connection
name: shop
spec:
  kind: http
  url: https://shop.example
  owner: sam
` + spec + strings.Join(more, "")},
		{Name: "firm/apis/shop.yaml", Text: document, Document: true},
	}}
}

const (
	namesFile = "  openapi: {file: apis/shop.yaml, only: [orders/*]}\n"
	cancels   = `---
kind: Tool
name: shop/orders/cancel
spec: {effect: irreversible}
---
kind: Grant
name: helper-orders
spec: {agent: helper, connection: shop, tools: [orders/create], when: context.args.body.item == "tea"}
`
)

func diffs(res manifest.Result) map[string]string {
	out := map[string]string{}
	for _, c := range res.Changes {
		for _, d := range c.Diff {
			if strings.HasPrefix(d.Field, "openapi.") {
				out[d.Field] = d.Old + " -> " + d.New
			}
		}
	}
	return out
}

func TestDocumentDeclares(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := build(t, db)
		w.apply(manifest.Applied, shop(shopDocument, namesFile, cancels))
		tools := func() string {
			var out []string
			for _, tool := range w.connections.Tools("shop") {
				out = append(out, fmt.Sprintf("%s %s %s %s", tool.Name, tool.Effect, tool.Status, tool.PinnedBy))
			}
			return strings.Join(out, "; ")
		}
		if got := tools(); got != "orders/cancel irreversible pinned root; orders/create write pinned root; orders/list read pinned root" {
			t.Fatal(got)
		}
		before := w.events()
		if res := w.apply(manifest.Applied, shop(shopDocument, namesFile, cancels)); len(ops(res)) > 0 || w.events() != before {
			t.Errorf("applying twice: %v", ops(res))
		}
		// What is exported declares the same, here and elsewhere.
		files, err := w.Export(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if res := w.apply(manifest.Applied, manifest.Request{Files: files}); len(ops(res)) > 0 || w.events() != before {
			t.Errorf("applying the export: %v", res.Changes)
		}
		elsewhere := build(t, storagetest.Open(t, storagetest.SQLite(t)))
		elsewhere.apply(manifest.Applied, manifest.Request{Files: files})
		if copied, err := elsewhere.Export(ctx); err != nil || cmp.Diff(files, copied) != "" {
			t.Errorf("%v\n%s", err, cmp.Diff(files, copied))
		}
		// The plan says what changes of each operation, and changes nothing.
		next := strings.NewReplacer("    delete: {operationId: orders/cancel}", "    post: {operationId: orders/close}", "amount: {type: integer}", "amount: {type: number}").Replace(shopDocument)
		req := shop(next, namesFile, strings.SplitAfter(cancels, "---\n")[0], strings.SplitAfter(cancels, "---\n")[2])
		req.DryRun = true
		want := map[string]string{"openapi.orders/cancel": "DELETE /orders/{id} -> ", "openapi.orders/close": " -> POST /orders/{id}",
			"openapi.orders/create/body/schema/properties/amount/type":                 `"integer" -> "number"`,
			"openapi.orders/create/inputSchema/properties/body/properties/amount/type": `"integer" -> "number"`}
		if d := cmp.Diff(want, diffs(w.apply(manifest.Planned, req))); d != "" || w.events() != before {
			t.Error(d)
		}
		req.DryRun = false
		w.apply(manifest.Applied, req)
		if got := tools(); got != "orders/close write pinned root; orders/create write pinned root; orders/list read pinned root" {
			t.Error(got)
		}
		// Inline, and then no document any more: what it declared goes.
		inline := shop("", "  openapi:\n    document: '{\"openapi\":\"3.0.3\",\"paths\":{\"/x\":{\"get\":{\"operationId\":\"x\"}}}}'\n", "---\nkind: Grant\nname: helper-orders\nstate: absent\n")
		inline.Files = inline.Files[:1]
		w.apply(manifest.Applied, inline)
		if got := tools(); got != "x read pinned root" {
			t.Error(got)
		}
		none := shop("", "")
		none.Files = none.Files[:1]
		w.apply(manifest.Applied, none)
		if got := tools(); got != "" {
			t.Error(got)
		}
	})
}

func TestDocumentRefused(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	var many strings.Builder
	many.WriteString(`{"openapi":"3.0.3","paths":{`)
	for i := range 10_000 {
		fmt.Fprintf(&many, `"/p%d":{"get":{"operationId":"orders/p%d"}},`, i, i)
	}
	many.WriteString(`"/x":{}}}`)
	one := func(schema string) string {
		return `{"openapi":"3.0.3","paths":{"/a":{"post":{"operationId":"orders/a","requestBody":{"content":{"application/json":{"schema":` + schema + `}}}}}}}`
	}
	file := func(document string) manifest.Request { return shop(document, namesFile) }
	noFile := file("")
	noFile.Files = noFile.Files[:1]
	stray := file(shopDocument)
	stray.Files = append(stray.Files, manifest.File{Name: "firm/other.json", Text: "{}", Document: true})
	for name, c := range map[string]struct {
		req   manifest.Request
		field string
		says  string
	}{
		"a reference to a URL":    {file(one(`{"$ref":"http://169.254.169.254/latest"}`)), "spec.openapi", "refers to another document"},
		"a reference to a file":   {file(one(`{"$ref":"../../etc/passwd"}`)), "spec.openapi", "refers to another document"},
		"ten thousand operations": {file(many.String()), "spec.openapi", "more than 2000 operations"},
		"an alias to itself":      {file("openapi: 3.0.3\npaths: &p\n  /a: *p\n"), "spec.openapi", ""},
		"over the limit":          {file(`{"openapi":"3.0.3","x":"` + strings.Repeat("x", connections.MaxDocument) + `"}`), "spec.openapi", "it is over"},
		"no operation matches":    {file(strings.ReplaceAll(shopDocument, "orders/", "x/")), "spec.openapi", "no operation"},
		"a bad pattern":           {shop(shopDocument, "  openapi: {file: apis/shop.yaml, only: ['[']}\n"), "spec.openapi", "not a pattern"},
		"not sent":                {noFile, "spec.openapi.file", "was not sent"},
		"named by nobody":         {stray, "", "no connection names this document"},
		"outside the directory":   {shop(shopDocument, "  openapi: {file: ../apis/shop.yaml}\n"), "spec.openapi.file", "beneath the directory"},
		"an absolute path":        {shop(shopDocument, "  openapi: {file: /etc/passwd}\n"), "spec.openapi.file", "beneath the directory"},
		"both":                    {shop(shopDocument, "  openapi: {file: apis/shop.yaml, document: '{}'}\n"), "spec.openapi", "either file or document"},
		"neither":                 {shop(shopDocument, "  openapi: {only: [x]}\n"), "spec.openapi", "either file or document"},
		"an unknown key":          {shop(shopDocument, "  openapi: {url: http://evil.example/doc}\n"), "spec.openapi.url", "unknown key"},
		"a line of the same name": {shop(shopDocument, namesFile+"  operations: {orders/list: GET /orders}\n"), "spec.operations", "leave one of them out"},
		"a tool that goes":        {shop(shopDocument, namesFile, "---\nkind: Tool\nname: shop/admin\nspec: {effect: write}\n"), "name", "will have no tool"},
		"a connection of git":     {shop(shopDocument, namesFile+"  dialect: git\n"), "spec.openapi", "without a dialect"},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.events()
			res := w.apply(manifest.Refused, c.req)
			if len(res.Problems) == 0 || res.Problems[0].Field != c.field || !strings.Contains(res.Problems[0].Message, c.says) || w.events() != before || len(w.connections.Connections()) > 0 {
				t.Errorf("%v, %d events", res.Problems, w.events()-before)
			}
		})
	}
	// What refers to itself ends somewhere, as in an import.
	w.apply(manifest.Applied, file(one(`{"type":"object","properties":{"self":{"$ref":"#/paths/~1a/post/requestBody/content/application~1json/schema"}}}`)))
	if tool, ok := w.connections.Tool("shop", "orders/a"); !ok || len(tool.InputSchema) > 100_000 {
		t.Errorf("%+v", tool)
	}
}

func TestRetrievalMapping(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	req := manifest.Request{Files: []manifest.File{{Name: "wiki.yaml", Text: `kind: User
name: sam
spec: {role: owner}
---
kind: Connection
name: wiki
spec:
  kind: retrieval
  dialect: search
  url: https://wiki.example/api
  owner: sam
  retrieval:
    search: {path: /search, query: {for: "{{readers}}"}, body: '{"q": "{{words}}"}', results: hits.items}
    fields: {id: key, text: page.body, readers: acl.readers}
`}}}
	w.apply(manifest.Applied, req)
	if c, _ := w.connections.Connection("wiki"); c.Retrieval == nil || c.Retrieval.Fields.Text != "page.body" || c.Retrieval.Search.Query["for"] != "{{readers}}" {
		t.Errorf("%+v", c.Retrieval)
	}
	if res := w.apply(manifest.Applied, req); len(ops(res)) > 0 {
		t.Errorf("%+v", res.Changes)
	}
}
