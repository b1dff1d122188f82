package forge

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// seed is what the repository begins with, as `git fast-import` reads it.
//
//go:embed seed.txt
var seed []byte

// repository is a bare git repository.
type repository struct {
	root string // of all repositories
	dir  string
}

// Backend returns the path of git's http-backend, or [ErrNoGit].
func Backend(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "--exec-path").Output()
	if err != nil {
		return "", fmt.Errorf("%w (%w)", ErrNoGit, err)
	}
	path := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	for _, p := range []string{path, path + ".exe"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w (%s is not there)", ErrNoGit, path)
}

// openRepository makes the repository at the first start.
func openRepository(ctx context.Context, dir string) (*repository, error) {
	root, err := filepath.Abs(filepath.Join(dir, "repositories"))
	if err != nil {
		return nil, err
	}
	r := &repository{root: root, dir: filepath.Join(root, Repository)}
	if _, err := os.Stat(r.dir); !errors.Is(err, os.ErrNotExist) {
		return r, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("forge data: %w", err)
	}
	// Made elsewhere and then moved: a start that is broken off leaves no half.
	made := &repository{root: root, dir: r.dir + ".new"}
	if err := os.RemoveAll(made.dir); err != nil {
		return nil, err
	}
	if _, err := made.git(ctx, nil, "init", "--quiet", "--bare", "--initial-branch=main", made.dir); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		in   []byte
		args []string
	}{
		{seed, []string{"fast-import", "--quiet"}},
		{nil, []string{"config", "http.receivepack", "true"}},
		{nil, []string{"config", "uploadpack.allowFilter", "false"}},
	} {
		if _, err := made.git(ctx, step.in, append([]string{"--git-dir", made.dir}, step.args...)...); err != nil {
			return nil, err
		}
	}
	return r, os.Rename(made.dir, r.dir)
}

// commit returns what a ref points to.
func (r *repository) commit(ctx context.Context, ref string) (string, error) {
	out, err := r.git(ctx, nil, "--git-dir", r.dir, "rev-parse", "--verify", "--quiet", "--end-of-options", ref+"^{commit}")
	return strings.TrimSpace(out), err
}

// git runs git without any configuration of the person.
func (r *repository) git(ctx context.Context, in []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.root, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull}
	cmd.Stdin = bytes.NewReader(in)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[len(args)-1], err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}
