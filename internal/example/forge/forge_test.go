package forge_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/example/forge"
)

const token = "forge-token-0001"

func serve(t *testing.T, dir string) string {
	t.Helper()
	f, err := forge.New(t.Context(), forge.Options{Dir: dir, Token: token})
	if errors.Is(err, forge.ErrNoGit) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

func git(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t.example", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t.example"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func ask(t *testing.T, method, url, credential, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", credential)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// It is a real forge: what is pushed is there for the next clone, and at the
// next start.
func TestCloneAndPush(t *testing.T) {
	dir, work := t.TempDir(), t.TempDir()
	url := serve(t, dir)
	with := strings.Replace(url, "http://", "http://bot:"+token+"@", 1) + "/git/" + forge.Repository
	for _, args := range [][]string{{"clone", "--quiet", with, "shop"}, {"-C", "shop", "checkout", "--quiet", "-b", "bot/one"}, {"-C", "shop", "commit", "--quiet", "--allow-empty", "-m", "one"},
		{"-C", "shop", "push", "--quiet", "origin", "bot/one"}} {
		if out, err := git(t, work, args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	if text, err := os.ReadFile(filepath.Join(work, "shop", "VERSION")); err != nil || string(text) != "1.3.0\n" {
		t.Errorf("VERSION: %q %v", text, err)
	}
	url = serve(t, dir)
	for _, c := range []struct {
		path, body string
		want       int
	}{
		{"/api/pulls", `{"title":"One","head":"bot/one","base":"main"}`, http.StatusCreated},
		{"/api/pulls", `{"title":"","head":"bot/one","base":"main"}`, http.StatusUnprocessableEntity},
		{"/api/pulls", `{"title":"Two","head":"bot/two","base":"main"}`, http.StatusUnprocessableEntity},
		{"/api/pulls", `{"title":"Two","head":"--all","base":"main"}`, http.StatusUnprocessableEntity},
		{"/api/pulls", `[]`, http.StatusBadRequest},
		{"/api/deployments", `{"ref":"bot/one","environment":"staging"}`, http.StatusCreated},
		{"/api/deployments", `{"ref":"bot/one","environment":"moon"}`, http.StatusUnprocessableEntity},
		{"/api/deployments", `{"ref":"nothing","environment":"staging"}`, http.StatusUnprocessableEntity},
		{"/api/other", `{}`, http.StatusNotFound},
	} {
		if got := ask(t, http.MethodPost, url+c.path, "Bearer "+token, c.body); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.path, c.body, got, c.want)
		}
	}
}

func TestItDemandsItsToken(t *testing.T) {
	if _, err := forge.New(t.Context(), forge.Options{Dir: t.TempDir()}); !errors.Is(err, forge.ErrNoToken) {
		t.Errorf("without a token: %v", err)
	}
	url := serve(t, t.TempDir())
	for _, path := range []string{"/api/pulls", "/git/" + forge.Repository + "/info/refs?service=git-upload-pack"} {
		for _, credential := range []string{"", "Bearer other", "Basic other"} {
			if got := ask(t, http.MethodGet, url+path, credential, ""); got != http.StatusUnauthorized {
				t.Errorf("%s %q: %d", path, credential, got)
			}
		}
	}
}

// Where git is missing it says so, and what to do.
func TestWithoutGit(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := forge.New(t.Context(), forge.Options{Dir: t.TempDir(), Token: token})
	if !errors.Is(err, forge.ErrNoGit) || !strings.Contains(err.Error(), "install git") {
		t.Errorf("got %v", err)
	}
}
