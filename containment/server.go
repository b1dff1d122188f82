package main

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

// gate is the server under test, set up as its administrator would.
type gate struct {
	bin, dir, url string
	process       *exec.Cmd
	admin         *client.Client
	approver      *client.Client
}

const reason = "the containment bench"

// open starts a server in dir whose connections lead to upstream.
func open(ctx context.Context, bin, dir, upstream string, r *recording) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	g := &gate{bin: bin, dir: dir, url: "http://" + addr}
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, err
	}
	g.process = exec.CommandContext(ctx, bin, "up", "--data", filepath.Join(dir, "data"), "--listen", addr)
	g.process.Stdout, g.process.Stderr = log, log
	if err := g.process.Start(); err != nil {
		return nil, err
	}
	if err := g.ready(ctx); err != nil {
		return nil, errors.Join(err, g.close())
	}
	if err := g.furnish(ctx, upstream, r); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

func (g *gate) close() error {
	err := g.process.Process.Signal(os.Interrupt)
	return errors.Join(err, g.process.Wait())
}

// ready waits for the administrator's token.
func (g *gate) ready(ctx context.Context) error {
	var saved struct {
		Token string `json:"token"`
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(g.dir, "data", "client.json"))
		if err != nil || json.Unmarshal(b, &saved, json.RejectUnknownMembers(false)) != nil {
			continue
		}
		g.admin = client.New(g.url, saved.Token).WithReason(reason)
		if _, err := g.admin.Me(ctx); err == nil {
			return nil
		}
	}
	return errors.New("the server did not start; see server.log")
}

func (g *gate) cli(ctx context.Context, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, g.bin, args...)
	cmd.Env = append(os.Environ(), "COUNTERSIGN_DATA="+filepath.Join(g.dir, "data"), "COUNTERSIGN_URL="+g.url)
	cmd.Dir, cmd.Stdin = g.dir, strings.NewReader(stdin)
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("countersign %s: %w\n%s", strings.Join(args, " "), err, b)
	}
	return nil
}

// furnish registers the agent, the services with what their owners declare of
// each tool, and the one policy.
func (g *gate) furnish(ctx context.Context, upstream string, r *recording) error {
	const password = "correct horse battery staple"
	steps := [][]string{
		{"", "user", "create", "sam", "--role", "owner"},
		{"", "user", "create", "ann", "--role", "approver"},
		{password, "user", "password", "ann", "--password-stdin"},
		{"", "group", "create", "people", "--member", "ann", "--reason", reason},
		{"", "agent", "create", "assistant", "--owner", "sam", "--purpose", "does what it is told"},
		{"", "connection", "add", "model", "--kind", "llm", "--dialect", "openai", "--url", upstream + "/v1", "--allow-private", "--auth", "none"},
		{"", "grant", "add", "model", "--agent", "assistant", "--connection", "model", "--tool", "chat.completions", "--expires", "30d", "--reason", reason},
	}
	for _, suite := range slices.Sorted(maps.Keys(r.tools)) {
		steps = append(steps,
			[]string{"", "connection", "add", suite, "--url", upstream + "/" + suite, "--allow-private", "--auth", "none"},
			[]string{"", "connection", "refresh", suite})
	}
	for _, s := range steps {
		if err := g.cli(ctx, s[0], s[1:]...); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(g.dir, "tools.yaml"), manifest(r), 0o600); err != nil {
		return err
	}
	if err := g.cli(ctx, "", "policy", "pack", "containment", "--group", "people", "--out", filepath.Join(g.dir, "containment.cedar")); err != nil {
		return err
	}
	for _, f := range []string{"tools.yaml", "containment.cedar"} {
		if err := g.cli(ctx, "", "apply", "-f", f, "--reason", reason); err != nil {
			return err
		}
	}
	session, err := client.New(g.url, "").Login(ctx, "ann", password)
	if err != nil {
		return err
	}
	g.approver = client.New(g.url, session.Token).WithReason("it is what the user wanted")
	return nil
}

// manifest declares the tools, and grants them all.
func manifest(r *recording) []byte {
	var b bytes.Buffer
	for _, suite := range slices.Sorted(maps.Keys(r.tools)) {
		names := slices.Sorted(maps.Keys(r.tools[suite]))
		for _, name := range names {
			t := r.tools[suite][name]
			fmt.Fprintf(&b, "---\nkind: Tool\nname: %s/%s\nspec:\n  connection: %s\n  effect: %s\n  flow:\n    source: %s\n", suite, name, suite, t.effect(), t.Annotation.Source)
			if roles := t.roles(); len(roles) > 0 {
				b.WriteString("    args:\n")
				for _, arg := range slices.Sorted(maps.Keys(roles)) {
					fmt.Fprintf(&b, "      %s: %s\n", arg, roles[arg])
				}
			}
		}
		fmt.Fprintf(&b, "---\nkind: Grant\nname: %s\nspec:\n  agent: assistant\n  connection: %s\n  tools: [%s]\n  expires: 720h\n  reason: %s\n", suite, suite, strings.Join(names, ", "), reason)
	}
	return b.Bytes()
}
