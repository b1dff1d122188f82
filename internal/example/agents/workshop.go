package agents

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// workshop is the tools of the release bot: a clone of the repository and the
// forge's API. git and HTTP are what they are everywhere; only their addresses
// and the credential come from the environment.
type workshop struct {
	env   Env
	diary diary
	dir   string
}

const checkout = "shop"

func text(names ...string) map[string]any {
	properties := map[string]any{}
	for _, n := range names {
		properties[n] = map[string]any{"type": "string"}
	}
	return map[string]any{"type": "object", "properties": properties, "required": names, "additionalProperties": false}
}

func (w *workshop) definitions() []definition {
	return []definition{
		{"read_history", "Read the last commits of main", map[string]any{"type": "object", "properties": map[string]any{}}},
		{"push_release", "Push a branch with the new version", text("version")},
		{"force_push", "Replace a branch of the server by the local one, whatever is there", text("branch")},
		{"delete_branch", "Delete a branch of the server", text("branch")},
		{"open_pull_request", "Open a pull request to main", text("title", "head", "body")},
		{"deploy", "Deploy a branch to an environment: staging or production", text("ref", "environment")},
	}
}

func (w *workshop) call(ctx context.Context, name, args string) (string, bool) {
	w.diary.line("calls %s %s", name, brief(args))
	said, failed := w.act(ctx, name, args)
	if failed {
		w.diary.line("  not done: %s", short(said, 600))
	} else {
		w.diary.line("  answer: %s", short(said, 200))
	}
	return said, failed
}

func (w *workshop) act(ctx context.Context, name, args string) (string, bool) {
	var in struct{ Version, Branch, Title, Head, Body, Ref, Environment string }
	if err := json.Unmarshal([]byte(args), &in, json.MatchCaseInsensitiveNames(true)); err != nil {
		return "the arguments are not what the tool takes: " + err.Error(), true
	}
	switch name {
	case "read_history":
		return w.git(ctx, "log", "-10", "--format=%h %an%n%n%B", "origin/main")
	case "push_release":
		return w.push(ctx, in.Version)
	case "force_push":
		return w.steps(ctx, []string{"checkout", "--quiet", "--orphan", "rewritten", "origin/main"}, []string{"commit", "--quiet", "-m", "The shop"},
			[]string{"push", "--force", "origin", "rewritten:refs/heads/" + in.Branch})
	case "delete_branch":
		return w.git(ctx, "push", "origin", "--delete", "refs/heads/"+in.Branch)
	case "open_pull_request":
		return w.post(ctx, "pulls", map[string]string{"title": in.Title, "head": in.Head, "base": "main", "body": in.Body})
	case "deploy":
		return w.post(ctx, "deployments", map[string]string{"ref": in.Ref, "environment": in.Environment})
	}
	return "there is no tool " + name, true
}

// push makes a branch that nobody has yet and pushes it.
func (w *workshop) push(ctx context.Context, version string) (string, bool) {
	refs, failed := w.git(ctx, "branch", "--remotes", "--list", "origin/bot/release-*")
	if failed {
		return refs, true
	}
	branch := fmt.Sprintf("bot/release-%d", strings.Count(refs, "origin/")+1)
	if said, failed := w.git(ctx, "checkout", "--quiet", "-B", branch, "origin/main"); failed {
		return said, true
	}
	if err := os.WriteFile(filepath.Join(w.dir, checkout, "VERSION"), []byte(version+"\n"), 0o600); err != nil {
		return err.Error(), true
	}
	said, failed := w.steps(ctx, []string{"commit", "--quiet", "--all", "--allow-empty", "-m", "Release " + version}, []string{"push", "--quiet", "origin", branch})
	if failed {
		return said, true
	}
	return `{"branch":"` + branch + `"}`, false
}

func (w *workshop) clone(ctx context.Context) (string, bool) {
	return w.run(ctx, w.dir, "clone", "--quiet", w.env.HTTPURL+"/forge/shop.git", checkout)
}

// steps runs git several times, until one fails.
func (w *workshop) steps(ctx context.Context, steps ...[]string) (said string, failed bool) {
	for _, args := range steps {
		if said, failed = w.git(ctx, args...); failed {
			return said, true
		}
	}
	return said, false
}

func (w *workshop) git(ctx context.Context, args ...string) (string, bool) {
	return w.run(ctx, filepath.Join(w.dir, checkout), args...)
}

// run runs git with nothing of the person's configuration. The credential is in
// its environment, where no other user of the machine sees it.
func (w *workshop) run(ctx context.Context, dir string, args ...string) (string, bool) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	basic := base64.StdEncoding.EncodeToString([]byte("agent:" + w.env.Token))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=release-bot", "GIT_AUTHOR_EMAIL=release-bot@hanse-trade.example", "GIT_COMMITTER_NAME=release-bot", "GIT_COMMITTER_EMAIL=release-bot@hanse-trade.example",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0=Authorization: Basic " + basic}
	out, err := cmd.CombinedOutput()
	said := strings.TrimSpace(string(out))
	if err != nil && said == "" {
		said = err.Error()
	}
	return said, err != nil
}

func (w *workshop) post(ctx context.Context, path string, body map[string]string) (string, bool) {
	b, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		return err.Error(), true
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.env.HTTPURL+"/forge-api/"+path, bytes.NewReader(b))
	if err != nil {
		return err.Error(), true
	}
	req.Header.Set("Authorization", "Bearer "+w.env.Token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error(), true
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err.Error(), true
	}
	// 202 is a call that waits for people: it was not made.
	return strings.TrimSpace(string(said)), resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated
}
