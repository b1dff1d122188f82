package egress_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

var petOperations = map[string]string{
	"pets": "GET /pets?limit:integer&tag[]&exact:boolean header(X-Zone)", "adopt": "POST /pets json(name!, age:integer)", "pet": "GET /pets/{id}",
	"form": "POST /form form(name!, tags[], age:integer)", "upload": "POST /upload multipart(title)", "raw": "PUT /raw/{+path} any", "release": "DELETE /pets/{id}",
}

func TestTheWayOfARequest(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		r := newRigOn(t, db, echo, petOperations)
		a := r.ask("GET", "/pets?limit=5&tag=a&tag=b&exact=true", nil, "X-Zone", "eu", "Accept", "text/plain", "X-Else", "passes")
		if a.status != 200 || a.body != "GET /pets?limit=5&tag=a&tag=b&exact=true" || a.header.Get("X-Countersign-Call") == "" {
			t.Fatalf("%+v", a)
		}
		if got, want := r.lastArgs(1), `{"query":{"limit":5,"tag":["a","b"],"exact":true},"header":{"X-Zone":"eu"}}`; got != want {
			t.Errorf("arguments %s, want %s", got, want)
		}
		got := r.up.Requests()[0].Header
		if got.Get("Authorization") != "Bearer "+line.Secret || got.Get("X-Else") != "passes" || got.Get("X-Zone") != "eu" {
			t.Errorf("the upstream saw %v", got)
		}
		sum := sha256.Sum256([]byte(a.body))
		o := r.Events(1, audit.CallOutcome)[0].Event.Outcome
		if o.Status != audit.Succeeded || o.Code != 200 || o.Digest != hex.EncodeToString(sum[:]) {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestWhatIsNoOperationIsRefused(t *testing.T) {
	r := newRig(t, echo, petOperations)
	for i, c := range []struct {
		method, path, code string
		status             int
	}{
		{"GET", "/admin", "unknown_operation", 404},
		{"GET", "/", "unknown_operation", 404},
		{"GET", "/pets/", "unknown_operation", 404},
		{"PATCH", "/pets/1", "method_not_allowed", 405},
		{"OPTIONS", "/pets", "method_not_allowed", 405},
		{"GET", "/PETS", "bad_path", 400},
		{"GET", "/pets/a%2fb", "bad_path", 400},
		{"GET", "/pets/%2e%2e", "bad_path", 400},
		{"GET", "/%70ets", "bad_path", 400},
		{"GET", "//pets", "bad_path", 400},
		{"GET", "/pets/1;x=y", "bad_path", 400},
		{"GET", "/pets?other=1", "bad_argument", 400},
		{"GET", "/pets?Limit=1", "bad_argument", 400},
		{"GET", "/pets?limit=1&limit=2", "bad_argument", 400},
		{"GET", "/pets?limit=1e3", "bad_argument", 400},
		{"GET", "/pets?limit=+1", "bad_argument", 400},
		{"GET", "/pets?limit=", "bad_argument", 400},
		{"GET", "/pets?exact=TRUE", "bad_argument", 400},
		{"GET", "/pets?tag=a;b=1", "bad_argument", 400},
		{"GET", "/pets?tag=%ff", "bad_argument", 400},
		{"GET", "/pets?tag=%zz", "bad_argument", 400},
		{"GET", "/pets?tag=" + strings.Repeat("a", 20<<10), "bad_argument", 400},
	} {
		a := r.ask(c.method, c.path, nil)
		if a.status != c.status || a.code != c.code {
			t.Errorf("%s %.40s: %d %s %s", c.method, c.path, a.status, a.code, a.detail)
		}
		if n := len(r.Events(i+1, audit.CallRefused)); n != i+1 {
			t.Errorf("%d events", n)
		}
		if a.header.Get("X-Countersign-Event") == "" || strings.Contains(a.body, r.Key) {
			t.Errorf("%s %s: %+v", c.method, c.path, a)
		}
	}
	if a := r.ask("PATCH", "/pets/1", nil); a.header.Get("Allow") != "DELETE, GET" {
		t.Errorf("Allow %q", a.header.Get("Allow"))
	}
	if n := len(r.up.Requests()); n != 0 {
		t.Errorf("%d refused requests reached the upstream", n)
	}
}

func TestBodies(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, q *http.Request) { w.WriteHeader(201) }, petOperations)
	form := func(parts ...string) (io.Reader, string) {
		var b bytes.Buffer
		m := multipart.NewWriter(&b)
		for _, p := range parts {
			name, value, isFile := strings.Cut(p, "@")
			h := textproto.MIMEHeader{}
			if !isFile {
				name, value, _ = strings.Cut(p, "=")
				h.Set("Content-Disposition", fmt.Sprintf(`form-data; name=%q`, name))
			} else {
				h.Set("Content-Disposition", fmt.Sprintf(`form-data; name=%q; filename="x.bin"`, name))
				h.Set("Content-Type", "application/octet-stream")
			}
			w, err := m.CreatePart(h)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(w, value)
		}
		m.Close()
		return &b, m.FormDataContentType()
	}
	multi := func(parts ...string) []any { b, ct := form(parts...); return []any{b, ct} }
	made := 0
	for _, c := range []struct {
		name, method, path string
		body               io.Reader
		header             []string
		code, args         string
	}{
		{"JSON", "POST", "/pets", text(`{"name":"Rex","age":3,"more":{"a":[1]}}`), []string{"Content-Type", "application/json"}, "", `{"content_type":"application/json","content_length":39,"body":{"name":"Rex","age":3,"more":{"a":[1]}}}`},
		{"JSON in pieces", "POST", "/pets", io.MultiReader(text(`{"name":`), text(`"Rex"}`)), []string{"Content-Type", "application/json; charset=UTF-8"}, "", `{"content_type":"application/json","body":{"name":"Rex"}}`},
		{"a name twice", "POST", "/pets", text(`{"name":"a","name":"b"}`), []string{"Content-Type", "application/json"}, "bad_body", ""},
		{"not JSON", "POST", "/pets", text(`{"name":`), []string{"Content-Type", "application/json"}, "bad_body", ""},
		{"another type", "POST", "/pets", text(`name=Rex`), []string{"Content-Type", "application/x-www-form-urlencoded"}, "bad_content_type", ""},
		{"no type", "POST", "/pets", text(`{}`), nil, "bad_content_type", ""},
		{"two types", "POST", "/pets", text(`{}`), []string{"Content-Type", "application/json", "Content-Type", "text/plain"}, "bad_content_type", ""},
		{"UTF-16", "POST", "/pets", text(`{}`), []string{"Content-Type", "application/json; charset=utf-16"}, "bad_content_type", ""},
		{"compressed", "POST", "/pets", text("\x1f\x8b"), []string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, "bad_content_encoding", ""},
		{"no body", "POST", "/pets", nil, nil, "body_missing", ""},
		{"a body where none is", "DELETE", "/pets/1", text(`{}`), []string{"Content-Type", "application/json"}, "unexpected_body", ""},
		{"too large", "POST", "/pets", bytes.NewReader(bytesOf(128 << 10)), []string{"Content-Type", "application/json"}, "body_too_large", ""},
		{"too large in pieces", "POST", "/pets", io.MultiReader(bytes.NewReader(bytesOf(128<<10)), text("")), []string{"Content-Type", "application/json"}, "body_too_large", ""},
		{"a form", "POST", "/form", text("name=R%26x&tags=a&tags=b&age=3&free=1"), []string{"Content-Type", "application/x-www-form-urlencoded"}, "", `{"content_type":"application/x-www-form-urlencoded","content_length":37,"body":{"name":"R&x","tags":["a","b"],"age":3,"free":"1"}}`},
		{"a field twice", "POST", "/form", text("name=a&name=b"), []string{"Content-Type", "application/x-www-form-urlencoded"}, "bad_argument", ""},
		{"a field that is a method", "POST", "/form", text("name=a&_method=DELETE"), []string{"Content-Type", "application/x-www-form-urlencoded"}, "method_override", ""},
		{"a field of another type", "POST", "/form", text("name=a&age=old"), []string{"Content-Type", "application/x-www-form-urlencoded"}, "bad_argument", ""},
		{"a file", "POST", "/upload", multi("title=Hi", "file@content")[0].(io.Reader), []string{"Content-Type", "?"}, "", `"body":{"title":"Hi"},"files":[{"field":"file","filename":"x.bin","type":"application/octet-stream"}]`},
		{"two files of one name", "POST", "/upload", multi("file@a", "file@b")[0].(io.Reader), []string{"Content-Type", "?"}, "bad_form", ""},
		{"a file and a field of one name", "POST", "/upload", multi("file@a", "file=b")[0].(io.Reader), []string{"Content-Type", "?"}, "bad_form", ""},
		{"a field twice in parts", "POST", "/upload", multi("title=a", "title=b")[0].(io.Reader), []string{"Content-Type", "?"}, "bad_argument", ""},
		{"a large file last", "POST", "/upload", multi("title=Hi", "file@"+string(bytesOf(256<<10)))[0].(io.Reader), []string{"Content-Type", "?"}, "", `"body":{"title":"Hi"},"files":`},
		{"a field after a large file", "POST", "/upload", multi("file@"+string(bytesOf(256<<10)), "title=Hi")[0].(io.Reader), []string{"Content-Type", "?"}, "bad_body", ""},
		{"no boundary", "POST", "/upload", text("x"), []string{"Content-Type", "multipart/form-data"}, "bad_form", ""},
		{"a preamble", "POST", "/upload", text("hi\r\n--b\r\n\r\n--b--"), []string{"Content-Type", "multipart/form-data; boundary=b"}, "bad_form", ""},
		{"an epilogue", "POST", "/upload", text("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b--\r\nhi"), []string{"Content-Type", "multipart/form-data; boundary=b"}, "bad_form", ""},
		{"LF alone", "POST", "/upload", text("--b\nContent-Disposition: form-data; name=\"a\"\n\n1\n--b--"), []string{"Content-Type", "multipart/form-data; boundary=b"}, "bad_form", ""},
		{"filename*", "POST", "/upload", text("--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"a\"; filename*=utf-8''b\r\n\r\n1\r\n--b--"), []string{"Content-Type", "multipart/form-data; boundary=b"}, "bad_form", ""},
		{"name twice in a part", "POST", "/upload", text("--b\r\nContent-Disposition: form-data; name=\"a\"; name=\"b\"\r\n\r\n1\r\n--b--"), []string{"Content-Type", "multipart/form-data; boundary=b"}, "bad_form", ""},
		{"a folded header", "POST", "/upload", text("--b\r\nContent-Disposition: form-data;\r\n name=\"a\"\r\n\r\n1\r\n--b--"), []string{"Content-Type", "multipart/form-data; boundary=b"}, "bad_form", ""},
		{"no end", "POST", "/upload", text("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1"), []string{"Content-Type", "multipart/form-data; boundary=b"}, "bad_form", ""},
		{"binary", "PUT", "/raw/a/b", text("\x00\x01\xff"), []string{"Content-Type", "application/octet-stream"}, "", `{"path":{"path":"a/b"},"content_type":"application/octet-stream","content_length":3}`},
		{"a MiB in one line", "PUT", "/raw/x", bytes.NewReader(bytesOf(1 << 20)), []string{"Content-Type", "text/plain"}, "", `"content_length":1048576`},
		{"of unknown length", "PUT", "/raw/x", io.MultiReader(bytes.NewReader(bytesOf(1<<20)), text("")), []string{"Content-Type", "text/plain"}, "", `{"path":{"path":"x"},"content_type":"text/plain"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := c.body
			if len(c.header) == 2 && c.header[1] == "?" {
				b, err := io.ReadAll(body)
				if err != nil {
					t.Fatal(err)
				}
				boundary, _, _ := strings.Cut(string(b[2:]), "\r\n")
				body, c.header = bytes.NewReader(b), []string{"Content-Type", "multipart/form-data; boundary=" + boundary}
			}
			var sent []byte
			if _, known := body.(interface{ Len() int }); known {
				sent, _ = io.ReadAll(body)
				body = bytes.NewReader(sent)
			}
			a := r.ask(c.method, c.path, body, c.header...)
			if a.code != c.code || (c.code == "") != (a.status == 201) {
				t.Fatalf("%d %s %s", a.status, a.code, a.detail)
			}
			if c.code == "bad_body" && strings.Contains(c.name, "large file") { // it had begun
				made++
			}
			if c.code != "" {
				return
			}
			made++
			if got := r.lastArgs(made); !strings.Contains(got, c.args) {
				t.Errorf("arguments %s, want %s", got, c.args)
			}
			got := r.up.Requests()
			if last := got[len(got)-1]; sent != nil && !bytes.Equal(last.Body, sent) {
				t.Errorf("the upstream got %d other bytes than the %d sent", len(last.Body), len(sent))
			}
		})
	}
	for _, rec := range r.Events(made, audit.CallOutcome) {
		if strings.Contains(string(rec.Event.Detail), `"bytes":1048576`) {
			return
		}
	}
	t.Error("no outcome says what was streamed")
}

func TestHeadersThatChangeTheRequest(t *testing.T) {
	r := newRig(t, echo, petOperations)
	for _, name := range []string{"X-HTTP-Method-Override", "X-Original-URL", "X-Rewrite-URL"} {
		if a := r.ask("GET", "/pets", nil, name, "DELETE"); a.code != "method_override" || a.status != 400 {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if a := r.ask("GET", "/pets?tag="+r.Key, nil); a.code != "bad_argument" {
		t.Errorf("the key in the query: %+v", a)
	}
	req, _ := http.NewRequest("PUT", r.url+"/raw/x", io.MultiReader(text("abc")))
	req.Header.Set("Authorization", "Bearer "+r.Key)
	req.Header.Set("Content-Type", "text/plain")
	req.Trailer = http.Header{"X-After": {"1"}}
	if a := r.do(req); a.code != "request_trailer" {
		t.Errorf("a trailer: %+v", a)
	}
	// The host that a client names, and its own forwarding, are nobody's business.
	req, _ = http.NewRequest("GET", r.url+"/pets", nil)
	req.Host = "admin.internal"
	req.Header.Set("Authorization", "Bearer "+r.Key)
	req.Header.Set("X-Forwarded-Host", "evil.example")
	if a := r.do(req); a.status != 200 {
		t.Errorf("another host: %+v", a)
	}
	if h := r.up.Requests()[0].Header; h.Get("X-Forwarded-Host") != "" {
		t.Errorf("the upstream saw %v", h)
	}
}

// Two readers that disagree about where a request ends are a way around a
// gateway (RFC 9112, section 11.2).
func TestSmuggling(t *testing.T) {
	r := newRig(t, echo, petOperations)
	host := strings.TrimPrefix(strings.TrimSuffix(r.url, "/http/forge"), "http://")
	for name, raw := range map[string]string{
		"length and chunks":     "POST /http/forge/pets HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer KEY\r\nContent-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /http/forge/admin HTTP/1.1\r\nHost: h\r\n\r\n",
		"two lengths":           "POST /http/forge/pets HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer KEY\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
		"an unknown coding":     "POST /http/forge/pets HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer KEY\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"two hosts":             "GET /http/forge/pets HTTP/1.1\r\nHost: h\r\nHost: i\r\nAuthorization: Bearer KEY\r\n\r\n",
		"a space before colon":  "GET /http/forge/pets HTTP/1.1\r\nHost: h\r\nAuthorization : Bearer KEY\r\n\r\n",
		"a line end in a value": "GET /http/forge/pets HTTP/1.1\r\nHost: h\r\nX-Zone: a\rb\r\nAuthorization: Bearer KEY\r\n\r\n",
		"a folded header":       "GET /http/forge/pets HTTP/1.1\r\nHost: h\r\nX-Zone: a\r\n Authorization: Bearer other\r\n\r\n",
		"two credentials":       "GET /http/forge/pets HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer KEY\r\nAuthorization: Bearer csk_other\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, strings.ReplaceAll(raw, "KEY", r.Key)+"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		got, _ := io.ReadAll(conn)
		conn.Close()
		if strings.HasPrefix(string(got), "HTTP/1.1 200") {
			t.Errorf("%s: %.200s", name, got)
		}
	}
	for _, q := range r.up.Requests() {
		t.Errorf("the upstream got %s %s", q.Method, q.Path)
	}
}

func TestAnswers(t *testing.T) {
	long := bytesOf(1 << 20)
	r := newRig(t, nil, map[string]string{"get": "GET /{+path}?x"})
	for _, c := range []struct {
		name  string
		up    http.HandlerFunc
		check func(answer) bool
	}{
		{"a download", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(long) }, func(a answer) bool { return a.body == string(long) }},
		{"a range", func(w http.ResponseWriter, q *http.Request) {
			http.ServeContent(w, q, "x.bin", time.Time{}, bytes.NewReader(long))
		}, func(a answer) bool {
			return a.status == 206 && a.body == string(long[:10]) && a.header.Get("Content-Range") == "bytes 0-9/1048576"
		}},
		{"not modified", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Etag", `"1"`); w.WriteHeader(304) }, func(a answer) bool { return a.status == 304 && a.header.Get("Etag") == `"1"` }},
		{"a trailer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum, Set-Cookie")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42 "+line.Secret)
			w.Header().Set("Set-Cookie", "a=b")
		}, func(a answer) bool { return a.status == 200 && a.body == "body" }},
		{"a redirect home", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/other?x=1")
			w.WriteHeader(302)
		}, func(a answer) bool { return a.status == 302 && a.header.Get("Location") == "/http/forge/other?x=1" }},
		{"a created thing", func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Location", "http://"+q.Host+"/things/1")
			w.WriteHeader(201)
		}, func(a answer) bool { return a.status == 201 && a.header.Get("Location") == "/http/forge/things/1" }},
		{"a redirect elsewhere", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://evil.example/")
			w.WriteHeader(307)
		}, func(a answer) bool {
			return a.status == 502 && a.code == "upstream_redirect" && a.header.Get("Location") == ""
		}},
		{"a redirect without a place", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(302) }, func(a answer) bool { return a.code == "upstream_redirect" }},
		{"our credential refused", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, func(a answer) bool { return a.status == 502 && a.code == "upstream_credential" }},
		{"our credential repeated", func(w http.ResponseWriter, q *http.Request) { _, _ = io.WriteString(w, q.Header.Get("Authorization")) }, func(a answer) bool { return a.status == 200 && !strings.Contains(a.body, line.Secret) }},
		{"a failure of theirs", upstream.JSON(503, `{"x":1}`), func(a answer) bool { return a.status == 503 && a.body == `{"x":1}` }},
		{"a cookie", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Set-Cookie", "a=b") }, func(a answer) bool { return a.status == 200 && a.header.Get("Set-Cookie") == "" }},
		{"another protocol", upstream.Raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), func(a answer) bool { return a.status == 502 }},
		{"half an answer", upstream.Raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), func(a answer) bool { return a.detail != "" }},
		{"garbage", upstream.Raw("\x00\x01\x02\r\n\r\n"), func(a answer) bool { return a.status == 502 }},
		{"an endless header", upstream.Raw("HTTP/1.1 200 OK\r\nX: " + string(long)), func(a answer) bool { return a.status == 502 }},
		{"events", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				_ = http.NewResponseController(w).Flush()
			}
		}, func(a answer) bool { return a.body == "data: 0\n\ndata: 1\n\ndata: 2\n\n" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.up.Answer(c.up)
			if a := r.ask("GET", "/x", nil, "Range", "bytes=0-9"); !c.check(a) {
				t.Errorf("%d %v %.200s %s", a.status, a.header, a.body, a.detail)
			}
		})
	}
	r.up.Answer(func(w http.ResponseWriter, q *http.Request) { w.Header().Set("Content-Length", "1234") })
	if a := r.ask("HEAD", "/x", nil); a.status != 200 || a.header.Get("Content-Length") != "1234" || a.body != "" {
		t.Errorf("HEAD: %+v", a)
	}
}

func TestTrailersReachTheClient(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", "of "+line.Secret)
	}, map[string]string{"get": "GET /x"})
	req, _ := http.NewRequest("GET", r.url+"/x", nil)
	req.Header.Set("Authorization", "Bearer "+r.Key)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	if got := resp.Trailer.Get("X-Sum"); !strings.HasPrefix(got, "of ***") {
		t.Errorf("trailer %q", got)
	}
}

func TestPolicySeesTheArguments(t *testing.T) {
	r := newRig(t, echo, petOperations)
	r.Policies(`@id("read") permit (principal, action in Action::"effect:read", resource);
@id("small") permit (principal, action == Action::"forge/adopt", resource) when { context.args.body has age && context.args.body.age < 5 };
@id("zone") forbid (principal, action == Action::"forge/pets", resource) when { context.args has header && context.args.header has "X-Zone" && context.args.header["X-Zone"] == "us" };`)
	for _, c := range []struct {
		method, path, body, zone string
		status                   int
	}{{"GET", "/pets", "", "", 200}, {"GET", "/pets", "", "us", 403}, {"POST", "/pets", `{"name":"a","age":4}`, "", 200}, {"POST", "/pets", `{"name":"a","age":5}`, "", 403}, {"DELETE", "/pets/1", "", "", 403}} {
		var body io.Reader
		header := []string{}
		if c.body != "" {
			body, header = text(c.body), []string{"Content-Type", "application/json"}
		}
		if c.zone != "" {
			header = append(header, "X-Zone", c.zone)
		}
		if a := r.ask(c.method, c.path, body, header...); a.status != c.status || (c.status == 403) != (a.code == "policy_denied") {
			t.Errorf("%s %s %s: %d %s %s", c.method, c.path, c.body, a.status, a.code, a.detail)
		}
	}
}

func TestAHiddenConnectionLooksLikeNone(t *testing.T) {
	r := newRig(t, echo, petOperations)
	r.Policies("")
	strip := func(a answer) string {
		b := a.body
		if i := strings.Index(b, `"event"`); i >= 0 {
			b = b[:i]
		}
		return fmt.Sprint(a.status, b)
	}
	hidden := strip(r.ask("GET", "/pets", nil))
	r.url = strings.TrimSuffix(r.url, "forge") + "none"
	if none := strip(r.ask("GET", "/pets", nil)); hidden != none || !strings.HasPrefix(none, "404") {
		t.Errorf("hidden: %s\nnone:   %s", hidden, none)
	}
}

func TestCredentials(t *testing.T) {
	r := newRig(t, echo, petOperations)
	for name, c := range map[string]struct {
		set    func(*http.Request)
		status int
	}{
		"none":            {func(*http.Request) {}, 401},
		"bearer":          {func(q *http.Request) { q.Header.Set("Authorization", "Bearer "+r.Key) }, 200},
		"basic":           {func(q *http.Request) { q.SetBasicAuth("x-access-token", r.Key) }, 200},
		"basic, empty":    {func(q *http.Request) { q.SetBasicAuth(r.Key, "") }, 401},
		"basic, wrong":    {func(q *http.Request) { q.SetBasicAuth("x", "csk_wrong") }, 401},
		"basic, not that": {func(q *http.Request) { q.Header.Set("Authorization", "Basic ???") }, 401},
		"token":           {func(q *http.Request) { q.Header.Set("Authorization", "token "+r.Key) }, 200},
		"token, empty":    {func(q *http.Request) { q.Header.Set("Authorization", "token ") }, 401},
		"token and other": {func(q *http.Request) {
			q.Header.Set("Authorization", "token "+r.Key)
			q.Header.Set("X-Api-Key", "csk_other")
		}, 401},
		"x-api-key":        {func(q *http.Request) { q.Header.Set("X-Api-Key", r.Key) }, 200},
		"basic and other":  {func(q *http.Request) { q.SetBasicAuth("x", r.Key); q.Header.Set("X-Api-Key", "csk_other") }, 401},
		"the upstream's":   {func(q *http.Request) { q.Header.Set("Authorization", "Bearer "+line.Secret) }, 401},
		"a scheme unknown": {func(q *http.Request) { q.Header.Set("Authorization", "Digest x") }, 401},
	} {
		req, _ := http.NewRequest("GET", r.url+"/pets", nil)
		c.set(req)
		if a := r.do(req); a.status != c.status || (c.status == 401) != (len(a.header["Www-Authenticate"]) == 2) {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func TestExpectContinue(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }, petOperations)
	r.Policies(`@id("all") permit (principal, action == Action::"forge/raw", resource) when { context.args.path.path == "yes" };`)
	host := strings.TrimPrefix(strings.TrimSuffix(r.url, "/http/forge"), "http://")
	for path, want := range map[string]string{"yes": "HTTP/1.1 100 Continue", "no": "HTTP/1.1 403 Forbidden"} {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "PUT /http/forge/raw/%s HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Type: video/mp4\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n", path, r.Key)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Errorf("%s: %q %v", path, got, err)
		}
		conn.Close()
	}
}

func TestDriftedOperation(t *testing.T) {
	r := newRig(t, echo, nil)
	doc := `{"openapi":"3.0.3","paths":{"/pets":{"get":{"operationId":"pets"}}}}`
	if _, err := r.Connections.Import(t.Context(), line.By, line.Reason, "forge", []byte(doc)); err != nil {
		t.Fatal(err)
	}
	r.Policies(line.AllowAll)
	if a := r.ask("GET", "/pets", nil); a.status != 200 {
		t.Fatalf("%+v", a)
	}
	changed := strings.Replace(doc, `"operationId":"pets"`, `"operationId":"pets","summary":"new"`, 1)
	if _, err := r.Connections.Import(t.Context(), line.By, line.Reason, "forge", []byte(changed)); err != nil {
		t.Fatal(err)
	}
	if a := r.ask("GET", "/pets", nil); a.status != 403 || a.code != "tool_changed" {
		t.Errorf("%+v", a)
	}
	if got, _ := r.Connections.Tool("forge", "pets"); got.Status != connections.StatusDrifted {
		t.Errorf("%+v", got)
	}
}

func TestAnUploadThatIsCutShort(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }, petOperations)
	host := strings.TrimPrefix(strings.TrimSuffix(r.url, "/http/forge"), "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT /http/forge/raw/x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Type: video/mp4\r\nContent-Length: 1000000\r\n\r\n", r.Key)
	_, _ = conn.Write(bytesOf(200 << 10))
	conn.Close()
	if o := r.Events(1, audit.CallOutcome)[0].Event.Outcome; o.Status == audit.Succeeded {
		t.Errorf("outcome %+v", o)
	}
}
