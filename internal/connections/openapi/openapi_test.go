package openapi_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/connections/openapi"
)

func TestReadGitHub(t *testing.T) {
	raw, err := os.ReadFile("testdata/github.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := openapi.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Operations) != 29 || len(r.Left) != 1 || !strings.HasPrefix(r.Left[0], "repos/compare-commits") {
		t.Errorf("%d operations, left out %v", len(r.Operations), r.Left)
	}
	byName := map[string]string{}
	for _, o := range r.Operations {
		byName[o.Name] = o.Method + " " + o.Path + " " + string(o.InputSchema)
		if o.Annotations.ReadOnly != (o.Method == "GET") {
			t.Errorf("%s: %+v", o.Name, o.Annotations)
		}
	}
	for name, want := range map[string]string{
		"repos/get-content":          "GET /repos/{owner}/{repo}/contents/{+path}",
		"issues/create":              `"assignees":{"type":"array","items":{"type":"string"}}`,
		"repos/create-deployment":    `"required":["ref"]`,
		"pulls/list":                 `"per_page":{"type":"integer"}`,
		"repos/upload-release-asset": `"content_type"`,
	} {
		if !strings.Contains(byName[name], want) {
			t.Errorf("%s has no %s: %s", name, want, byName[name])
		}
	}
	only, err := openapi.Read(raw, "issues/*")
	if err != nil || len(only.Operations) != 6 {
		t.Errorf("%d operations of issues: %v", len(only.Operations), err)
	}
}

const yamlPets = `openapi: 3.1.0
info: {title: pets, version: "1"}
paths:
  /pets/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: integer}}
    get:
      operationId: pet
      parameters:
        - {name: tags, in: query, explode: false, schema: {type: array, items: {type: string}}}
        - {name: Authorization, in: header, schema: {type: string}}
        - {name: session, in: cookie, schema: {type: string}}
    put:
      requestBody:
        required: true
        content:
          multipart/form-data:
            schema: {type: object, required: [name, photo], properties: {name: {type: string}, photo: {type: string, format: binary}}}
  /nodes:
    post:
      operationId: node
      requestBody:
        content: {application/json: {schema: {$ref: '#/components/schemas/Node'}}}
  /merged:
    post:
      operationId: merged
      requestBody: {content: {application/json: {schema: {allOf: [{$ref: '#/components/schemas/A'}, {type: object, properties: {b: {type: [string, "null"]}}}]}}}}
components:
  schemas:
    A: {type: object, required: [a], properties: {a: {type: boolean}}}
    Node: {type: object, properties: {value: {type: string}, next: {$ref: '#/components/schemas/Node'}}}
`

func TestReadYAML(t *testing.T) {
	r, err := openapi.Read([]byte(yamlPets))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, o := range r.Operations {
		got[o.Name] = string(o.InputSchema)
	}
	for name, wants := range map[string][]string{
		"pet":            {`"id":{"type":"integer"}`, `"tags":{"items":{"type":"string"},"type":"array"}`},
		"PUT /pets/{id}": {`"files"`, `"name":{"type":"string"}`, `"required":["name"]`},
		"node":           {`"value":{"type":"string"}`},
		"merged":         {`"a":{"type":"boolean"}`, `"b":{"type":["string","null"]}`, `"required":["a"]`},
	} {
		for _, w := range wants {
			if !strings.Contains(got[name], w) {
				t.Errorf("%s has no %s: %s", name, w, got[name])
			}
		}
	}
	if strings.Contains(got["PUT /pets/{id}"], "photo") || strings.Contains(got["pet"], "Authorization") || strings.Contains(got["pet"], "session") {
		t.Errorf("what is not read is there: %v", got)
	}
}

func TestHostileDocuments(t *testing.T) {
	one := func(schema string) string {
		return `{"openapi":"3.0.3","paths":{"/a":{"post":{"operationId":"a","requestBody":{"content":{"application/json":{"schema":` + schema + `}}}}}}}`
	}
	var many strings.Builder
	many.WriteString(`{"openapi":"3.0.3","paths":{`)
	for i := range 10_000 {
		fmt.Fprintf(&many, `"/p%d":{"get":{"operationId":"p%d"}},`, i, i)
	}
	many.WriteString(`"/x":{}}}`)
	bomb := "openapi: 3.0.3\na: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	for name, doc := range map[string]string{
		"a reference to a file":           one(`{"$ref":"other.yaml#/A"}`),
		"a reference to a URL":            one(`{"$ref":"http://169.254.169.254/latest/meta-data"}`),
		"a reference to nothing":          one(`{"$ref":"#/components/schemas/Gone"}`),
		"a file URL deep inside":          one(`{"type":"object","properties":{"a":{"type":"array","items":{"$ref":"file:///etc/passwd"}}}}`),
		"ten thousand operations":         many.String(),
		"an alias bomb":                   bomb,
		"an alias to itself":              "openapi: 3.0.3\npaths: &p\n  /a: *p\n",
		"a name twice":                    `{"openapi":"3.0.3","paths":{"/a":{"get":{}},"/a":{"delete":{}}}}`,
		"a name twice, in YAML":           "openapi: 3.0.3\npaths:\n  /a: {get: {}}\n  /a: {delete: {}}\n",
		"an operationId twice":            `{"openapi":"3.0.3","paths":{"/a":{"get":{"operationId":"x"}},"/b":{"get":{"operationId":"x"}}}}`,
		"nesting":                         `{"openapi":"3.0.3","x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
		"not UTF-8":                       "{\"openapi\":\"3.0.3\",\"paths\":{\"/\xff\":{\"get\":{}}}}",
		"Swagger 2":                       `{"swagger":"2.0","paths":{"/a":{"get":{}}}}`,
		"nothing in it":                   `{"openapi":"3.1.0","paths":{}}`,
		"no document":                     `[]`,
		"binary":                          "\x00\x01\x02",
		"empty":                           ``,
		"one line of a MiB without a key": strings.Repeat("a", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			r, err := openapi.Read([]byte(doc))
			if !errors.Is(err, openapi.ErrDocument) {
				t.Errorf("read as %d operations, left %v, err %v", len(r.Operations), r.Left, err)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	// What refers to itself ends somewhere, and policy sees nothing beneath.
	for _, schema := range []string{`{"$ref":"#/paths/~1a/post/requestBody/content/application~1json/schema"}`,
		`{"type":"object","properties":{"self":{"$ref":"#/paths/~1a/post/requestBody/content/application~1json/schema"}}}`,
		`{"allOf":[{"$ref":"#/paths/~1a/post/requestBody/content/application~1json/schema"},{"$ref":"#/paths/~1a/post/requestBody/content/application~1json/schema"}]}`} {
		r, err := openapi.Read([]byte(one(schema)))
		if err != nil || len(r.Operations) != 1 || len(r.Operations[0].InputSchema) > 100_000 {
			t.Errorf("%s: %+v %v", schema, r, err)
		}
	}
}

// same fails the test unless what was read is read again out of what is written of it.
func same(t *testing.T, r openapi.Result) {
	t.Helper()
	doc, err := openapi.Write(r.Operations)
	if err != nil {
		t.Fatal(err)
	}
	again, err := openapi.Read(doc)
	if err != nil || len(again.Operations) != len(r.Operations) {
		t.Fatalf("%d operations of %d, left out %v: %v\n%s", len(again.Operations), len(r.Operations), again.Left, err, doc)
	}
	for i, o := range r.Operations {
		was, err := o.JSONDefinition()
		if err != nil {
			t.Fatal(err)
		}
		now, err := again.Operations[i].JSONDefinition()
		if err != nil || string(was) != string(now) {
			t.Errorf("%v\n%s\n%s", err, was, now)
		}
	}
}

func TestWrite(t *testing.T) {
	github, err := os.ReadFile("testdata/github.json")
	if err != nil {
		t.Fatal(err)
	}
	odd := `{"openapi":"3.0.3","paths":{
"/f/{p}":{"get":{"operationId":"one","parameters":[{"name":"p","in":"path","required":true}]}},
"/f/{+p}":{"get":{"operationId":"all"}},
"/w":{"get":{"x-websocket":true,"parameters":[{"name":"X-A","in":"header","required":true,"schema":{"type":"array","items":{"type":"integer"}}}]}},
"/b":{"post":{"summary":"` + strings.Repeat("ä ", 150) + `","requestBody":{"required":true,"content":{"text/X; q=1":{},"text/x":{},"application/z+json":{"schema":{"type":"object","nullable":true,"required":["a"],"additionalProperties":false,"properties":{"a":{"enum":[ "x", "y" ],"type":"string"}}}}}}},"put":{"requestBody":{}}}}}`
	for name, doc := range map[string][]byte{"github": github, "pets": []byte(yamlPets), "odd": []byte(odd)} {
		t.Run(name, func(t *testing.T) {
			r, err := openapi.Read(doc)
			if err != nil {
				t.Fatal(err)
			}
			same(t, r)
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(yamlPets))
	f.Add([]byte(`{"openapi":"3.0.3","paths":{"/a":{"get":{"operationId":"x"}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := openapi.Read(b)
		if err != nil {
			return
		}
		for _, o := range r.Operations {
			if _, err := o.JSONDefinition(); err != nil {
				t.Fatalf("%s: %v", o.Name, err)
			}
		}
		if len(r.Operations) > 0 {
			same(t, r)
		}
	})
}
