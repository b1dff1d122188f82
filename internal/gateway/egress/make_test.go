package egress

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/fault"
)

func parsed(t testing.TB, line string) *operation.Operation {
	t.Helper()
	o, err := operation.Parse("op", line)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Arguments become the one request that they say, or none.
func TestRequestOfArguments(t *testing.T) {
	const (
		one     = "DELETE /things/{id}.json?force:boolean&tag[] header(X-Reason)"
		several = "PUT /files/{+path} json"
		form    = "POST /form form(a, b[])"
	)
	for _, c := range []struct{ line, args, want, body string }{
		{one, `{"path":{"id":7}}`, "/things/7.json", ""},
		{one, `{"path":{"id":["7"]},"query":{"force":true,"tag":["a&b","c"]},"header":{"X-Reason":"why"}}`, "/things/7.json?force=true&tag=a%26b&tag=c", ""},
		{one, `{"path":{"id":"a b?c#d;e+f"}}`, "/things/a%20b%3Fc%23d%3Be+f.json", ""},
		{one, `{"path":{"id":"a/b"}}`, "/things/a%2Fb.json", ""}, // one segment; whether it is taken is for the front
		{one, `{"path":{"id":"%2e%2e"}}`, "/things/%252e%252e.json", ""},
		{one, `{"path":{"id":".."}}`, "", ""},
		{one, `{"path":{"id":"."}}`, "", ""},
		{one, `{"path":{"id":""}}`, "", ""},
		{one, `{"path":{"id":null}}`, "", ""},
		{one, `{"path":{"id":{"a":1}}}`, "", ""},
		{one, `{"path":{"id":["a","b"]}}`, "", ""},
		{one, `{"path":{"id":[]}}`, "", ""},
		{one, `{"path":{}}`, "", ""},
		{one, `{"path":null}`, "", ""},
		{one, `{"path":{"id":1,"other":2}}`, "", ""},
		{one, `{"path":{"id":1},"query":{"tag":[["a"]]}}`, "", ""},
		{one, `{"path":{"id":1},"query":{"tag":[null]}}`, "", ""},
		{one, `{"path":{"id":1},"cookie":{}}`, "", ""},
		{one, `{"path":{"id":1},"body":{}}`, "", ""},
		{one, `{"path":{"id":1},"header":{"x-reason":"by another name"}}`, "", ""},
		{one, `{"path":{"id":1},"header":{"Authorization":"Bearer x"}}`, "", ""},
		{one, `{"path":{"id":1},"header":{"X-Reason":"a\r\nHost: evil.test"}}`, "", ""},
		{one, `[]`, "", ""},
		{one, `{"path":{"id":1},"path":{"id":2}}`, "", ""},
		{several, `{"path":{"path":"a/b c"},"body":{"n":1}}`, "/files/a/b%20c", `{"n":1}`},
		{several, `{"path":{"path":"a/../b"}}`, "", ""},
		{several, `{"path":{"path":"a//b"}}`, "", ""},
		{several, `{"path":{"path":"/a"}}`, "", ""},
		{several, `{"path":{"path":"a/."}}`, "", ""},
		{form, `{"body":{"a":"x&y=1","b":[1,2]}}`, "/form", "a=x%26y%3D1&b=1&b=2"},
		{form, `{"body":{"a":{"b":1}}}`, "", ""},
		{form, `{"body":[1]}`, "", ""},
		{form, `{"body":null}`, "", ""},
		{"POST /any any", `{"body":{"a":1}}`, "/any", `{"a":1}`},
		{"POST /upload multipart(a)", `{"body":{"a":1}}`, "", ""},
	} {
		r, err := request(context.Background(), parsed(t, c.line), "forge", []byte(c.args))
		if c.want == "" {
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s %s: %v", c.line, c.args, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", c.line, c.args, err)
			continue
		}
		body, err := io.ReadAll(r.Body)
		if r.URL.String() != "/http/forge"+c.want || string(body) != c.body || r.ContentLength != int64(len(c.body)) || err != nil {
			t.Errorf("%s %s: %s with %q", c.line, c.args, r.URL, body)
		}
	}
}

// FuzzRequest holds what is made of arguments to what they say: nothing leads out
// of the operation's path, and nothing is there that was not given and declared.
func FuzzRequest(f *testing.F) {
	f.Add(`{"path":{"id":"a/..","rest":"x/y"},"query":{"q":[1,true]},"header":{"X-Reason":"a"},"body":{"a":[{}]}}`)
	f.Add(`{"path":{"id":"%2e%2e","rest":"\u0000"},"header":{"Host":"x"}}`)
	f.Add(`{"path":{"id":"\\..","rest":"..\u002f"}}`)
	o := parsed(f, "POST /a/{id}/b/{+rest}?q[] header(X-Reason) json")
	m := operation.NewMatcher([]*operation.Operation{o})
	f.Fuzz(func(t *testing.T, args string) {
		r, err := request(context.Background(), o, "forge", []byte(args))
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("%q: %v", args, err)
			}
			return
		}
		var in struct {
			Path, Query map[string]jsontext.Value
		}
		if err := json.Unmarshal([]byte(args), &in, json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Fatal(err)
		}
		path, beneath := strings.CutPrefix(r.URL.EscapedPath(), "/http/forge")
		if !beneath || r.Host != "" || r.URL.Host != "" || r.URL.Fragment != "" || r.Method != http.MethodPost {
			t.Errorf("%q: %s of %q", args, r.URL, r.Host)
		}
		for s := range strings.SplitSeq(path[1:], "/") {
			if plain, err := url.PathUnescape(s); err != nil || plain == "" || plain == "." || plain == ".." {
				t.Errorf("%q: the segment %q", args, s)
			}
		}
		if _, values, _, err := m.Match(r.Method, path); err == nil {
			for _, v := range values {
				if given, err := plain(v.Name, in.Path[v.Name]); err != nil || given[0] != v.Value {
					t.Errorf("%q: %s is %q, not %q", args, v.Name, v.Value, given)
				}
			}
		}
		for name := range r.URL.Query() {
			if _, given := in.Query[name]; !given {
				t.Errorf("%q: the parameter %q", args, name)
			}
		}
		for name := range r.Header {
			if !slices.Contains([]string{"User-Agent", "Accept", "Content-Type", "X-Reason"}, name) {
				t.Errorf("%q: the header %q", args, name)
			}
		}
	})
}
