package server_test

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// visitor is a browser without its engine.
type visitor struct {
	t    testing.TB
	url  string
	http *http.Client
}

func (p *process) visit(t testing.TB) *visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &visitor{t, p.url, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (v *visitor) do(method, path string, form url.Values, headers ...string) (*http.Response, string) {
	v.t.Helper()
	req, err := http.NewRequest(method, v.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := v.http.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return resp, string(b)
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// csrf returns a token of the page at path.
func (v *visitor) csrf(path string) string {
	v.t.Helper()
	_, page := v.do("GET", path, nil)
	m := csrfField.FindStringSubmatch(page)
	if m == nil {
		v.t.Fatalf("%s has no form:\n%s", path, page)
	}
	return m[1]
}

func (v *visitor) signIn(form url.Values) *http.Response {
	v.t.Helper()
	form.Set("csrf", v.csrf("/sign-in"))
	resp, _ := v.do("POST", "/sign-in", form)
	return resp
}

func TestConsoleLetsNobodyIn(t *testing.T) {
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	v := p.visit(t)
	for path, want := range map[string]int{"/": 303, "/approvals": 303, "/approvals/x": 303, "/profile": 303, "/nowhere": 303, "/live": 401, "/sign-in": 200, "/log/checkpoint": 200} {
		if resp, body := v.do("GET", path, nil); resp.StatusCode != want && path != "/log/checkpoint" {
			t.Errorf("%s: %s\n%s", path, resp.Status, body)
		}
	}
	if resp, _ := v.do("GET", "/approvals?box=all", nil); resp.Header.Get("Location") != "/sign-in?next=%2Fapprovals%3Fbox%3Dall" {
		t.Errorf("leads to %q", resp.Header.Get("Location"))
	}
	// A link from elsewhere is asked for again, from here.
	if resp, body := v.do("GET", "/approvals", nil, "Sec-Fetch-Site", "cross-site"); resp.StatusCode != 200 || !strings.Contains(body, `http-equiv="refresh"`) {
		t.Errorf("a link from elsewhere: %s\n%s", resp.Status, body)
	}
	if resp := v.signIn(url.Values{"name": {"admin"}, "password": {"wrong"}}); resp.StatusCode != 401 || len(resp.Cookies()) > 0 {
		t.Errorf("a wrong password: %s %v", resp.Status, resp.Cookies())
	}
	if resp := v.signIn(url.Values{"token": {"csu_nonsense"}}); resp.StatusCode != 401 || len(resp.Cookies()) > 0 {
		t.Errorf("a wrong token: %s", resp.Status)
	}
	limited := false
	for range 12 {
		limited = limited || v.signIn(url.Values{"name": {"admin"}, "password": {"wrong"}}).StatusCode == 429
	}
	if !limited {
		t.Error("signing in is not limited")
	}
}

func TestConsoleSession(t *testing.T) {
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.api(t, "PUT", "/users/vic", map[string]any{"role": "viewer"}, nil)
	p.api(t, "PUT", "/users/vic/password", map[string]any{"password": "a long enough word"}, nil)
	v := p.visit(t)
	resp := v.signIn(url.Values{"name": {"vic"}, "password": {"a long enough word"}, "next": {"/profile"}})
	if resp.StatusCode != 303 || resp.Header.Get("Location") != "/profile" {
		t.Fatalf("%s %s", resp.Status, resp.Header.Get("Location"))
	}
	k := resp.Cookies()[0]
	if !k.HttpOnly || k.SameSite != http.SameSiteStrictMode || k.Path != "/" || k.Secure {
		t.Errorf("cookie %+v", k)
	}
	resp, page := v.do("GET", "/profile", nil)
	if resp.StatusCode != 200 || !strings.Contains(page, "viewer") {
		t.Fatalf("%s\n%s", resp.Status, page)
	}
	csp := resp.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
		if !strings.Contains(csp, want) {
			t.Errorf("policy %q lacks %q", csp, want)
		}
	}
	for _, bad := range []string{" style=", "<style", "onclick=", "<script>", "http://", "https://"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	token := v.csrf("/profile")
	other := p.visit(t)
	if resp := other.signIn(url.Values{"token": {p.token}}); resp.StatusCode != 303 {
		t.Fatal(resp.Status)
	}
	for name, c := range map[string]struct {
		csrf    string
		headers []string
	}{
		"no token":            {"", nil},
		"another's token":     {other.csrf("/profile"), nil},
		"from another site":   {token, []string{"Sec-Fetch-Site", "cross-site"}},
		"from another origin": {token, []string{"Sec-Fetch-Site", "", "Origin", "https://evil.example"}},
	} {
		if resp, _ := v.do("POST", "/profile/everywhere", url.Values{"csrf": {c.csrf}}, c.headers...); resp.StatusCode != 403 {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	if resp, _ := v.do("GET", "/profile", nil); resp.StatusCode != 200 {
		t.Fatal("a forged form ended the session")
	}
	if resp, body := v.do("POST", "/profile/everywhere", url.Values{"csrf": {token}}); resp.StatusCode != 303 {
		t.Fatalf("%s\n%s", resp.Status, body)
	}
	if resp, _ := v.do("GET", "/profile", nil); resp.StatusCode != 303 {
		t.Errorf("signed out everywhere, and still in: %s", resp.Status)
	}
	// A token for programs outlives the browser that was signed in with it.
	if resp, _ := other.do("POST", "/sign-out", url.Values{"csrf": {other.csrf("/profile")}}); resp.StatusCode != 303 {
		t.Error(resp.Status)
	}
	p.api(t, "GET", "/me", nil, nil)
}

// An action can do nothing that the API refuses, and says what the API says.
func TestConsoleAsksTheAPI(t *testing.T) {
	p, key := heldDesk(t, t.TempDir(), storagetest.SQLite(t))
	p.ticket(t, key, "T-1001")
	id := p.pendingOf(t)
	p.api(t, "PUT", "/users/vic", map[string]any{"role": "viewer"}, nil)
	p.api(t, "PUT", "/users/vic/password", map[string]any{"password": "a long enough word"}, nil)
	v := p.visit(t)
	v.signIn(url.Values{"name": {"vic"}, "password": {"a long enough word"}})
	resp, page := v.do("GET", "/approvals/"+id, nil)
	if resp.StatusCode != 200 || strings.Contains(page, `value="approve"`) || strings.Contains(page, "T-1001") {
		t.Errorf("%s: a viewer sees what is in a call, or is asked:\n%s", resp.Status, page)
	}
	resp, page = v.do("POST", "/approvals/"+id+"/decision", url.Values{"csrf": {v.csrf("/approvals/" + id)}, "verdict": {"approve"}, "reason": {"mine to give"}})
	if resp.StatusCode != 403 || !strings.Contains(page, "role") {
		t.Errorf("%s\n%s", resp.Status, page)
	}
	a := p.visit(t)
	a.signIn(url.Values{"token": {p.token}})
	resp, page = a.do("POST", "/approvals/"+id+"/decision", url.Values{"csrf": {a.csrf("/approvals/" + id)}, "verdict": {"approve"}, "reason": {""}})
	if resp.StatusCode != 422 && resp.StatusCode != 400 || !strings.Contains(page, "reason") {
		t.Errorf("without a reason: %s\n%s", resp.Status, page)
	}
	resp, page = a.do("POST", "/approvals/"+id+"/decision", url.Values{"csrf": {a.csrf("/approvals/" + id)}, "verdict": {"approve"}, "reason": {"checked"}})
	if resp.StatusCode != 303 {
		t.Fatalf("%s\n%s", resp.Status, page)
	}
	if _, page := a.do("GET", resp.Header.Get("Location"), nil); !strings.Contains(page, "Approved. The call may be made once") || !strings.Contains(page, "checked") {
		t.Errorf("after the decision:\n%s", page)
	}
}

// What was decided continues page by page, to the last, and can be filtered.
func TestConsolePagesWhatWasDecided(t *testing.T) {
	p, key := heldDesk(t, t.TempDir(), storagetest.SQLite(t))
	const n = 55
	for i := range n {
		p.ticket(t, key, fmt.Sprintf("T-%d", 2000+i))
		p.decide(t, p.pendingOf(t), "deny")
	}
	p.ticket(t, key, "T-3000") // waits, and is in none of these pages
	v := p.visit(t)
	v.signIn(url.Values{"token": {p.token}})
	seen := map[string]bool{}
	row, next := regexp.MustCompile(`id="r-(apr_[0-9a-z]+)"`), regexp.MustCompile(`href="([^"]+after=apr_[^"]+)">Next page`)
	pages := 0
	for path := "/approvals?box=settled"; path != ""; pages++ {
		_, page := v.do("GET", path, nil)
		for _, m := range row.FindAllStringSubmatch(page, -1) {
			if seen[m[1]] {
				t.Fatalf("%s is there twice", m[1])
			}
			seen[m[1]] = true
		}
		path = ""
		if m := next.FindStringSubmatch(page); m != nil && pages < n {
			path = html.UnescapeString(m[1])
		}
	}
	if len(seen) != n || pages != 2 {
		t.Errorf("%d requests on %d pages", len(seen), pages)
	}
	if _, page := v.do("GET", "/approvals?box=settled&q=T-2007", nil); len(row.FindAllString(page, -1)) != 1 {
		t.Errorf("filtered:\n%s", page)
	}
	resp, file := v.do("GET", "/approvals?box=settled&as=csv", nil)
	if rows := strings.Count(file, "\n"); resp.Header.Get("Content-Type") != "text/csv; charset=utf-8" || rows != n+1 {
		t.Errorf("%s: %d rows", resp.Status, rows)
	}
}
