package operation_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/connections/operation"
)

func matcher(t testing.TB, lines ...string) *operation.Matcher {
	t.Helper()
	var ops []*operation.Operation
	for _, line := range lines {
		o, err := operation.Parse(line, line)
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, o)
	}
	return operation.NewMatcher(ops)
}

func TestMatch(t *testing.T) {
	m := matcher(t, "GET /users", "GET /users/{id}", "DELETE /users/{id}", "GET /users/me", "GET /users/{id}/keys/{key}", "GET /users/me/settings",
		"GET /files/{+path}", "GET /report.{format}", "POST /things/{id}:batch", "GET /slash/", "GET /a%20b", "HEAD /h/{x}", "GET /two/{a}", "GET /two/{b}")
	for _, c := range []struct {
		method, path, want, args string
		err                      error
	}{
		{"GET", "/users", "GET /users", "", nil},
		{"GET", "/users/7", "GET /users/{id}", "id=7", nil},
		{"DELETE", "/users/7", "DELETE /users/{id}", "id=7", nil},
		{"GET", "/users/me", "GET /users/me", "", nil},
		{"GET", "/users/me/keys/1", "GET /users/{id}/keys/{key}", "id=me key=1", nil},
		{"GET", "/users/me/settings", "GET /users/me/settings", "", nil},
		{"GET", "/files/a/b/c.txt", "GET /files/{+path}", "path=a/b/c.txt", nil},
		{"GET", "/files/a%2Fb%2fc.txt", "GET /files/{+path}", "path=a/b/c.txt", nil},
		{"GET", "/files%2Fa", "", "", operation.ErrForm},
		{"GET", "/files/a%2F..%2Fb", "", "", operation.ErrForm},
		{"GET", "/files/a%2F%2e%2e", "", "", operation.ErrForm},
		{"GET", "/files/a%2F%2Fb", "", "", operation.ErrForm},
		{"GET", "/files/a%252Fb", "", "", operation.ErrForm},
		{"GET", "/users/me%2Fsettings", "", "", operation.ErrForm},
		{"GET", "/users/7%2Fkeys/1", "", "", operation.ErrForm},
		{"GET", "/report.pdf", "GET /report.{format}", "format=pdf", nil},
		{"POST", "/things/9:batch", "POST /things/{id}:batch", "id=9", nil},
		{"GET", "/slash/", "GET /slash/", "", nil},
		{"GET", "/a%20b", "GET /a%20b", "", nil},
		{"HEAD", "/users/7", "GET /users/{id}", "id=7", nil},
		{"HEAD", "/h/1", "HEAD /h/{x}", "x=1", nil},
		{"GET", "/users/%C3%A9", "GET /users/{id}", "id=é", nil},
		{"GET", "/users/a%20b", "GET /users/{id}", "id=a b", nil},
		{"PUT", "/users/7", "", "", operation.ErrMethod},
		{"GET", "/users/", "", "", operation.ErrNone},
		{"GET", "/slash", "", "", operation.ErrNone},
		{"GET", "/Users", "", "", operation.ErrForm},
		{"GET", "/users/Me", "", "", operation.ErrForm},
		{"GET", "/users/m%65", "", "", operation.ErrForm},
		{"GET", "/users/%37", "", "", operation.ErrForm},
		{"GET", "/users/a%2Fb", "", "", operation.ErrForm},
		{"GET", "/users/a%5cb", "", "", operation.ErrForm},
		{"GET", "/users/a%252Fb", "", "", operation.ErrForm},
		{"GET", "/users/..", "", "", operation.ErrForm},
		{"GET", "/users/%2e%2e", "", "", operation.ErrForm},
		{"GET", "/files/a/../b", "", "", operation.ErrForm},
		{"GET", "/files/a//b", "", "", operation.ErrForm},
		{"GET", "//users", "", "", operation.ErrForm},
		{"GET", "/users/7;admin=1", "", "", operation.ErrForm},
		{"GET", "/users/a%00b", "", "", operation.ErrForm},
		{"GET", "/users/%FF", "", "", operation.ErrForm},
		{"GET", "/users/%zz", "", "", operation.ErrForm},
		{"GET", "users", "", "", operation.ErrForm},
		{"GET", "/" + strings.Repeat("a/", 100), "", "", operation.ErrForm},
		{"GET", "/" + strings.Repeat("a", 1<<20), "", "", operation.ErrForm},
		{"GET", "/two/1", "", "", operation.ErrTwo},
		{"GET", "/nothing", "", "", operation.ErrNone},
	} {
		o, args, allow, err := m.Match(c.method, c.path)
		if !errors.Is(err, c.err) {
			t.Errorf("%s %.60s: %v, want %v", c.method, c.path, err, c.err)
			continue
		}
		if errors.Is(err, operation.ErrMethod) && strings.Join(allow, " ") != "DELETE GET" {
			t.Errorf("%s %s: allowed %v", c.method, c.path, allow)
		}
		if err != nil {
			continue
		}
		var got []string
		for _, a := range args {
			got = append(got, a.Name+"="+a.Value)
		}
		if o.Name != c.want || strings.Join(got, " ") != c.args {
			t.Errorf("%s %s: %s %v, want %s %s", c.method, c.path, o.Name, got, c.want, c.args)
		}
	}
}

func TestParse(t *testing.T) {
	o, err := operation.Parse("deploy", "POST  /apps/{app}/deployments?dry:boolean header(X-Reason) json(ref!, replicas:integer, tags[], env:string[])")
	if err != nil {
		t.Fatal(err)
	}
	if o.Line != "POST /apps/{app}/deployments?dry:boolean header(X-Reason) json(ref!, replicas:integer, tags[], env:string[])" {
		t.Errorf("line %q", o.Line)
	}
	d, err := o.JSONDefinition()
	if err != nil {
		t.Fatal(err)
	}
	back, err := operation.Read(d)
	if err != nil || back.Method != "POST" || len(back.Parameters) != 3 || back.Annotations.ReadOnly {
		t.Errorf("%+v %v", back, err)
	}
	for _, want := range []string{`"required":["path","body"]`, `"replicas":{"type":"integer"}`, `"tags":{"items":{"type":"string"},"type":"array"}`, `"dry":{"type":"boolean"}`, `"X-Reason"`} {
		if !strings.Contains(string(o.InputSchema), want) {
			t.Errorf("the schema has no %s: %s", want, o.InputSchema)
		}
	}
	for _, bad := range []string{"", "GET", "GET pets", "FETCH /pets", "GET /pets json(a)", "POST /pets xml(a)", "POST /pets json(a) form(b)", "POST /pets json(a", "GET /{a}/{a}", "GET /{+a}/b",
		"GET /a?b:date", "GET /a?b&b", "POST /a json(b,b)", "GET /{a}{b}", "GET /..", "GET /a//b", "POST /a json( )x"} {
		if o, err := operation.Parse("x", bad); err == nil {
			t.Errorf("%q was read as %+v", bad, o)
		}
	}
}

// FuzzMatch holds what a match promises: a request that is an operation has
// exactly the path that the operation's template makes of the arguments.
func FuzzMatch(f *testing.F) {
	m := matcher(f, "GET /users", "GET /users/{id}", "GET /users/me", "GET /files/{+path}", "GET /report.{format}", "POST /things/{id}:batch")
	for _, s := range []string{"/users/7", "/users/%6de", "/files/a/b", "/report.x", "/users/..;/me"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		o, args, _, err := m.Match("GET", path)
		if err != nil {
			return
		}
		plain, err := url.PathUnescape(path)
		if err != nil {
			t.Fatal(err)
		}
		want := o.Path
		for _, a := range args {
			want = strings.NewReplacer("{"+a.Name+"}", a.Value, "{+"+a.Name+"}", a.Value).Replace(want)
		}
		if plain != want {
			t.Errorf("%q is %s, which makes %q", path, o.Path, want)
		}
		if o.Path == "/users/{id}" && strings.EqualFold(args[0].Value, "me") {
			t.Errorf("%q was taken for another operation", path)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("POST /apps/{app}?dry:boolean header(X-Reason) json(ref!, replicas:integer, tags[])")
	f.Fuzz(func(t *testing.T, line string) {
		o, err := operation.Parse("x", line)
		if err != nil {
			return
		}
		again, err := operation.Parse("x", o.Line)
		if err != nil || again.Line != o.Line {
			t.Errorf("%q: %v", o.Line, err)
		}
	})
}
