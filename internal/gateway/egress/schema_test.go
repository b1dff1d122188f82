package egress_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/test/line"
)

const deployAPI = `{"openapi":"3.0.3","info":{"title":"x","version":"1"},"paths":{"/deployments":{"post":{"operationId":"deploy","requestBody":{"required":true,"content":{"application/json":{"schema":{
	"type":"object","required":["environment"],"additionalProperties":false,"properties":{
		"environment":{"type":"string","enum":["staging","production"]},
		"replicas":{"type":"integer","minimum":1,"maximum":9,"exclusiveMaximum":true},
		"ref":{"type":"string","pattern":"^[a-z]+$","maxLength":8},
		"hosts":{"type":"array","maxItems":2,"items":{"type":"string"}},
		"note":{"type":"string","nullable":true,"enum":["a"]}}}}}},"responses":{"200":{"description":"ok"}}}}}}`

// The arguments of an operation are held to what its accepted document says of them.
func TestArgumentsFitTheDocument(t *testing.T) {
	r := newRig(t, echo, nil)
	if _, err := r.Connections.Import(t.Context(), line.By, line.Reason, "forge", []byte(deployAPI)); err != nil {
		t.Fatal(err)
	}
	if err := r.Watch.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Policies(line.AllowAll)
	good := []string{`{"environment":"staging"}`, `{"environment":"production","replicas":8,"ref":"main","hosts":["a","b"],"note":null}`, `{"environment":"staging","note":"b"}`}
	for _, body := range good {
		if a := r.ask("POST", "/deployments", strings.NewReader(body), "Content-Type", "application/json"); a.status != 200 {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	for name, body := range map[string]string{
		"another value":   `{"environment":"moon"}`,
		"nothing":         `{}`,
		"too few":         `{"environment":"staging","replicas":0}`,
		"too many":        `{"environment":"staging","replicas":9}`,
		"a capital":       `{"environment":"staging","ref":"Main"}`,
		"too long":        `{"environment":"staging","ref":"abcdefghi"}`,
		"too long a list": `{"environment":"staging","hosts":["a","b","c"]}`,
		"another name":    `{"environment":"staging","force":true}`,
	} {
		a := r.ask("POST", "/deployments", strings.NewReader(body), "Content-Type", "application/json")
		if a.status != 403 || a.code != "bad_arguments" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if n := len(r.up.Requests()); n != len(good) {
		t.Errorf("the upstream got %d requests", n)
	}
	r.Events(8, audit.CallDenied)
}

// What an SDK escapes in the rest of a path is decided on and sent as it is meant.
func TestEscapedSlashesInTheRestOfAPath(t *testing.T) {
	r := newRig(t, echo, map[string]string{"file": "GET /files/{+path}"})
	r.Policies(line.AllowAll + `@id("no") forbid (principal, action == Action::"forge/file", resource) when { context.args.path.path == "docs/b.md" };`)
	if a := r.ask("GET", "/files/docs%2Fa.md", nil); a.status != 200 || a.body != "GET /files/docs/a.md?" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := r.ask("GET", "/files/docs%2fb.md", nil); a.status != 403 || a.code != "policy_denied" {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, path := range []string{"/files%2Fa", "/files/a%2F..%2Fb", "/files/a%252Fb"} {
		if a := r.ask("GET", path, nil); a.status != 400 || a.code != "bad_path" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
