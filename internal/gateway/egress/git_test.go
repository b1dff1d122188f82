package egress_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

// gitHouse is a line before a real git server (git http-backend), with a
// person's clone.
type gitHouse struct {
	*rig
	bare, work string
	tokens     []string // that the server saw
	env        []string // of git, beside its own
}

func newGit(t *testing.T) *gitHouse {
	t.Helper()
	backend := gitBackend(t)
	h := &gitHouse{rig: &rig{t: t, up: upstream.Start(t, echo)}}
	root := t.TempDir()
	h.site(root)
	s := httptest.NewServer(gitServer(backend, root, func(r *http.Request) { h.tokens = append(h.tokens, r.Header.Get("X-Forge-Token")) }))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	h.serve(storagetest.Open(t, storagetest.SQLite(t)), s.URL, connections.Git, nil)
	return h
}

// site makes the repository acme/site beneath root, with one commit.
func (h *gitHouse) site(root string) {
	h.t.Helper()
	h.bare, h.work = filepath.Join(root, "acme", "site.git"), filepath.Join(h.t.TempDir(), "work")
	h.git("", "init", "-q", "--bare", "-b", "main", h.bare)
	h.git(h.bare, "config", "http.receivepack", "true")
	h.git(h.bare, "config", "receive.advertisePushOptions", "true")
	seed := filepath.Join(h.t.TempDir(), "seed")
	h.git("", "init", "-q", "-b", "main", seed)
	h.commit(seed, "first")
	h.git(seed, "push", "-q", h.bare, "main")
}

// gitBackend returns the program by which git serves repositories.
func gitBackend(t *testing.T) string {
	t.Helper()
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Skip("there is no git")
	}
	backend := filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Skip("there is no git http-backend")
	}
	return backend
}

// gitServer serves the repositories beneath root.
func gitServer(backend, root string, seen func(*http.Request)) http.Handler {
	served := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen(r)
		if r.ContentLength < 0 { // CGI must know how long a body is
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
		}
		if v := r.Header.Get("Git-Protocol"); v != "" {
			copied := *served
			copied.Env = append(append([]string{}, served.Env...), "GIT_PROTOCOL="+v)
			copied.ServeHTTP(w, r)
			return
		}
		served.ServeHTTP(w, r)
	})
}

// git runs git, which must succeed.
func (h *gitHouse) git(dir string, args ...string) string {
	h.t.Helper()
	out, err := h.try(dir, args...)
	if err != nil {
		h.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return out
}

// try runs git with the agent's key, as a person sets it up.
func (h *gitHouse) try(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "HOME="+h.t.TempDir(),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	cmd.Env = append(cmd.Env, h.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (h *gitHouse) commit(dir, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, text), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.git(dir, "add", "-A")
	h.git(dir, "commit", "-q", "-m", text)
}

func (h *gitHouse) remote() string {
	return strings.Replace(h.url, "http://", "http://agent:"+h.Key+"@", 1) + "/acme/site.git"
}

// calls returns the tools and arguments of what was decided since the last
// time, lists of refs left out.
func (h *gitHouse) calls() (out []string) {
	h.t.Helper()
	recs, err := h.Log.List(h.t.Context(), audit.Query{Types: []audit.Type{audit.CallIntent, audit.CallDenied}, Oldest: true, Limit: 1000, Payloads: true})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range recs {
		args := string(r.Payloads["arguments"])
		if !strings.Contains(args, `"step":"list"`) {
			out = append(out, r.Event.Tool+" "+args)
		}
	}
	return out
}

func TestGitCloneFetchPush(t *testing.T) {
	for _, version := range []string{"0", "2"} {
		t.Run("protocol "+version, func(t *testing.T) {
			h := newGit(t)
			h.git("", "-c", "protocol.version="+version, "clone", "-q", h.remote(), h.work)
			h.git(h.work, "config", "protocol.version", version)
			h.commit(h.work, "second")
			h.git(h.work, "push", "-q", "origin", "main", "main:refs/heads/topic")
			h.git(h.work, "fetch", "-q")
			h.git(h.work, "commit", "-q", "--amend", "-m", "other")
			h.git(h.work, "push", "-q", "--force", "-o", "skip-ci", "origin", "main")
			h.git(h.work, "push", "-q", "origin", ":topic")
			// More than fits what is looked at: the pack is streamed.
			if err := os.WriteFile(filepath.Join(h.work, "big"), []byte(noise(1<<20)), 0o600); err != nil {
				t.Fatal(err)
			}
			h.git(h.work, "add", "-A")
			h.git(h.work, "commit", "-q", "-m", "big")
			h.git(h.work, "-c", "http.postBuffer=65536", "push", "-q", "origin", "main")
			if got, want := h.git(h.bare, "rev-parse", "main"), h.git(h.work, "rev-parse", "main"); got != want {
				t.Errorf("main is at %s, want %s", got, want)
			}
			got := h.calls()
			for i, want := range []string{
				`fetch {"repository":"acme/site","step":"fetch"`,
				`push {"repository":"acme/site","step":"push","refs":["refs/heads/main","refs/heads/topic"],"kinds":["create","update"],"updates":["update refs/heads/main","create refs/heads/topic"]`,
				`push.rewrite {"repository":"acme/site","step":"push","ref":"refs/heads/main","kind":"rewrite","refs":["refs/heads/main"],"kinds":["rewrite"],"updates":["rewrite refs/heads/main"],"options":["skip-ci"]}`,
				`push.rewrite {"repository":"acme/site","step":"push","ref":"refs/heads/topic","kind":"delete"`,
				`push {"repository":"acme/site","step":"push","ref":"refs/heads/main","kind":"update"`,
			} {
				if i >= len(got) || !strings.HasPrefix(got[i], want) {
					t.Errorf("call %d: want %s, got %v", i, want, got)
					break
				}
			}
			for _, token := range h.tokens {
				if token != line.Secret {
					t.Errorf("the server saw the token %q", token)
				}
			}
		})
	}
}

// noise does not compress.
func noise(n int) string {
	out, x := make([]byte, n), uint32(1)
	for i := range out {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		out[i] = byte(x)
	}
	return string(out)
}

func TestGitPolicy(t *testing.T) {
	h := newGit(t)
	h.Policies(`@id("read") permit (principal, action == Action::"forge/fetch", resource) when { context.args.repository == "acme/site" };
@id("topics") permit (principal, action == Action::"forge/push", resource) when { context.args has ref && context.args.ref like "refs/heads/bot/*" };`)
	h.git("", "clone", "-q", h.remote(), h.work)
	h.commit(h.work, "second")
	h.git(h.work, "push", "-q", "origin", "main:bot/fix")
	for name, args := range map[string][]string{
		"another branch":  {"push", "origin", "main"},
		"two branches":    {"push", "origin", "main:bot/a", "main:main"},
		"a deletion":      {"push", "origin", ":bot/fix"},
		"a forced update": {"push", "--force", "origin", "main~1:bot/fix"},
	} {
		out, err := h.try(h.work, args...)
		if err == nil || !strings.Contains(out, "no grant or policy allows") || !strings.Contains(out, "remote rejected") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	if out, err := h.try("", "clone", strings.Replace(h.remote(), "site", "secret", 1), t.TempDir()+"/x"); err == nil || !strings.Contains(out, "no grant or policy allows") {
		t.Errorf("another repository: %v\n%s", err, out)
	}
	if got := h.git(h.bare, "branch"); strings.Contains(got, "bot/a") || !strings.Contains(got, "bot/fix") {
		t.Errorf("branches %s", got)
	}
}

func TestWhatGitDoesNotSend(t *testing.T) {
	h := newGit(t)
	old, now := strings.Repeat("1", 40), strings.Repeat("2", 40)
	pkt := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 10<<20))
	z.Close()
	for name, c := range map[string]struct{ method, path, body, kind, code string }{
		"the dumb protocol":      {"GET", "/acme/site.git/HEAD", "", "", "unknown_operation"},
		"refs without a service": {"GET", "/acme/site.git/info/refs", "", "", "unknown_operation"},
		"a service twice":        {"GET", "/acme/site.git/info/refs?service=git-upload-pack&service=git-receive-pack", "", "", "unknown_operation"},
		"another service":        {"GET", "/acme/site.git/info/refs?service=git-upload-archive", "", "", "unknown_operation"},
		"a dot segment":          {"GET", "/acme/../site.git/info/refs?service=git-upload-pack", "", "", "unknown_operation"},
		"an escape":              {"GET", "/acme/%73ite.git/info/refs?service=git-upload-pack", "", "", "unknown_operation"},
		"another method":         {"DELETE", "/acme/site.git/git-receive-pack", "", "", "method_not_allowed"},
		"another type":           {"POST", "/acme/site.git/git-receive-pack", "0000", "text/plain", "bad_content_type"},
		"no pkt-lines":           {"POST", "/acme/site.git/git-receive-pack", "hello", "receive-pack", "bad_git_request"},
		"a length too long":      {"POST", "/acme/site.git/git-receive-pack", "ffff" + old, "receive-pack", "bad_git_request"},
		"no end":                 {"POST", "/acme/site.git/git-receive-pack", pkt(old + " " + now + " refs/heads/a\x00 report-status"), "receive-pack", "bad_git_request"},
		"a ref outside":          {"POST", "/acme/site.git/git-receive-pack", pkt(old+" "+now+" refs/../config\x00") + "0000", "receive-pack", "bad_git_request"},
		"a ref twice":            {"POST", "/acme/site.git/git-receive-pack", pkt(old+" "+now+" refs/heads/a\x00") + pkt(old+" "+now+" refs/heads/a") + "0000", "receive-pack", "bad_git_request"},
		"capabilities twice":     {"POST", "/acme/site.git/git-receive-pack", pkt(old+" "+now+" refs/heads/a\x00x") + pkt(old+" "+now+" refs/heads/b\x00push-options") + "0000", "receive-pack", "bad_git_request"},
		"upper-case names":       {"POST", "/acme/site.git/git-receive-pack", pkt(strings.Repeat("A", 40)+" "+now+" refs/heads/a\x00") + "0000", "receive-pack", "bad_git_request"},
		"neither":                {"POST", "/acme/site.git/git-receive-pack", pkt(strings.Repeat("0", 40)+" "+strings.Repeat("0", 40)+" refs/heads/a\x00") + "0000", "receive-pack", "bad_git_request"},
		"a signed push":          {"POST", "/acme/site.git/git-receive-pack", pkt("push-cert\x00") + "0000", "receive-pack", "bad_git_request"},
		"an unknown command":     {"POST", "/acme/site.git/git-upload-pack", pkt("command=delete-all") + "0000", "upload-pack", "bad_git_request"},
		"two commands":           {"POST", "/acme/site.git/git-upload-pack", pkt("command=fetch") + pkt("command=ls-refs") + "0000", "upload-pack", "bad_git_request"},
		"too long":               {"POST", "/acme/site.git/git-upload-pack", strings.Repeat(pkt("want "+old), 5000), "upload-pack", "body_too_large"},
		"a bomb":                 {"POST", "/acme/site.git/git-upload-pack", bomb.String(), "upload-pack gzip", "body_too_large"},
		"not gzip":               {"POST", "/acme/site.git/git-upload-pack", "0000", "upload-pack gzip", "bad_git_request"},
		"another coding":         {"POST", "/acme/site.git/git-upload-pack", "0000", "upload-pack br", "bad_content_encoding"},
	} {
		var header []string
		kind, coding, coded := strings.Cut(c.kind, " ")
		switch {
		case kind == "text/plain":
			header = []string{"Content-Type", kind}
		case kind != "":
			header = []string{"Content-Type", "application/x-git-" + kind + "-request"}
		}
		if coded {
			header = append(header, "Content-Encoding", coding)
		}
		if a := h.ask(c.method, c.path, strings.NewReader(c.body), header...); a.code != c.code {
			t.Errorf("%s: %d %s %s", name, a.status, a.code, a.detail)
		}
	}
	if len(h.tokens) > 0 {
		t.Errorf("%d refused requests reached the server", len(h.tokens))
	}
}

func TestGitBasicTowardsTheServer(t *testing.T) {
	r := &rig{t: t, up: upstream.Start(t, func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.Header.Get("Authorization")) })}
	r.Line = line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), line.Options{})
	r.Register(connections.Connection{Name: "forge", Kind: connections.HTTP, URL: r.up.URL, Owner: "pat", Secret: "forge-key", Auth: connections.AuthBasic, AllowPrivate: true})
	r.operations(map[string]string{"get": "GET /x"})
	r.Policies(line.AllowAll)
	r.front()
	if a := r.ask("GET", "/x", nil); a.status != 503 || a.code != "secret_unavailable" {
		t.Errorf("a secret without a user: %+v", a)
	}
}
