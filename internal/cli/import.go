package cli

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/internal/discovery"
)

func (a *app) importCommand() *cobra.Command {
	return group("import", "Find what is there already: MCP servers, keys in files, CI secrets", a.importScan(), a.importApply())
}

const importLong = `Reads the MCP configuration of Claude Desktop, Claude Code, Cursor, VS Code, Windsurf, Zed, Codex and Gemini CLI, .env files, GitHub Actions workflows and
.gitlab-ci.yml: at PATHS, or in this directory and where these programs keep theirs. No value is shown, kept or sent anywhere: of a credential you see the
name, where it stands, and a digest by which the same one in two places is recognised within one scan.`

// importPaths are the paths given, or the usual places.
func importPaths(args []string) []string {
	if len(args) > 0 {
		return args
	}
	paths := []string{"."}
	home, err := os.UserHomeDir()
	if err != nil {
		return paths
	}
	config, err := os.UserConfigDir()
	if err != nil {
		config = filepath.Join(home, ".config")
	}
	return append(paths, discovery.Places(home, config)...)
}

// importResult is what a scan found, and what it would be here.
type importResult struct {
	discovery.Found
	Plan []plannedResource `json:"plan"`
}

func (a *app) importScan() *cobra.Command {
	cmd := &cobra.Command{Use: "scan [PATHS...]", Short: "Show what is there and what would be registered", Args: operands("[PATHS...]"), Long: importLong}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		found := discovery.Scan(importPaths(args))
		r := importResult{found, plan(found, "")}
		if a.output == "json" {
			return a.printJSON(r)
		}
		return a.showImport(r)
	}
	return cmd
}

func (a *app) showImport(r importResult) error {
	if err := list(a, r.Servers, "no MCP servers found",
		column[discovery.Server]{"SERVER", func(x discovery.Server) string { return x.Name }, func(discovery.Server) string { return bold }},
		column[discovery.Server]{"OF", func(x discovery.Server) string { return x.Client }, nil},
		column[discovery.Server]{"TARGET", func(x discovery.Server) string { return x.URL + strings.Join(x.Command, " ") }, nil},
		column[discovery.Server]{"FILE", func(x discovery.Server) string { return x.File }, nil}); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	if err := list(a, r.Secrets, "no credentials found",
		column[discovery.Secret]{"CREDENTIAL", func(x discovery.Secret) string { return x.Name }, func(discovery.Secret) string { return bold }},
		column[discovery.Secret]{"GIVEN TO", func(x discovery.Secret) string { return x.Server }, nil},
		column[discovery.Secret]{"IS", func(x discovery.Secret) string {
			switch {
			case x.Refers != "":
				return "a reference to " + x.Refers
			case x.Digest != "":
				return "a value in plain, " + x.Digest[:8]
			}
			return "empty"
		}, func(x discovery.Secret) string {
			if x.Digest != "" {
				return yellow
			}
			return ""
		}},
		column[discovery.Secret]{"FILE", func(x discovery.Secret) string { return x.File }, nil}); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	if err := list(a, r.Plan, "nothing would be registered",
		column[plannedResource]{"WOULD BE", func(x plannedResource) string { return x.Kind }, nil},
		column[plannedResource]{"NAME", func(x plannedResource) string { return x.Name }, func(plannedResource) string { return bold }},
		column[plannedResource]{"FROM", func(x plannedResource) string { return x.From }, nil}); err != nil {
		return err
	}
	for _, p := range r.Problems {
		a.warn("%s: %s", inert(p.File, 0), p.Why)
	}
	return nil
}

func (a *app) importApply() *cobra.Command {
	var owner, out string
	cmd := &cobra.Command{Use: "apply --owner USER [PATHS...]", Short: "Write what was found as files for countersign apply", Args: operands("[PATHS...]"),
		Long: importLong + `

The files hold no value: a secret says from which environment variable countersign apply is to take it. Nothing is granted: agents may call what they are
granted, and a person decides that.`,
		Example: "  countersign import apply --owner sam --out countersign.d\n  countersign diff -f countersign.d\n  countersign apply -f countersign.d"}
	cmd.Flags().StringVar(&owner, "owner", "", "user who answers for all of it")
	cmd.Flags().StringVar(&out, "out", "countersign.d", "directory to write to")
	_ = cmd.MarkFlagRequired("owner") // it is there
	a.completeFlag(cmd, "owner", userNames)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		found := discovery.Scan(importPaths(args))
		resources := plan(found, owner)
		if len(resources) == 0 {
			return errors.New("nothing was found that could be registered: see countersign import scan")
		}
		text, err := manifestText(resources)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(out, 0o750); err != nil {
			return err
		}
		file := filepath.Join(out, "imported.yaml")
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(text)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		for _, p := range found.Problems {
			a.warn("%s: %s", inert(p.File, 0), p.Why)
		}
		return a.did(resources, "%s holds %d resources without any value: look at it, then countersign apply -f %s", file, len(resources), out)
	}
	return cmd
}

// plannedResource is a resource that would be registered.
type plannedResource struct {
	Kind string         `json:"kind"`
	Name string         `json:"name"`
	From string         `json:"from"` // the file that it was found in
	Spec map[string]any `json:"spec"`
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

func plainName(parts ...string) string {
	n := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(strings.Join(parts, "-")), "-"), "-")
	if n == "" {
		n = "unnamed"
	}
	return strings.TrimRight(n[:min(len(n), 60)], "-")
}

// plan makes resources of what was found: an agent for each client, a connection
// for each server, a secret for each credential that a server is given. The same
// server in two places is one.
func plan(found discovery.Found, owner string) []plannedResource {
	agents, conns, secrets := map[string]plannedResource{}, map[string]plannedResource{}, map[string]plannedResource{}
	same := map[string]string{} // target -> connection
	for _, s := range found.Servers {
		target := s.URL + "\x00" + strings.Join(s.Command, "\x00")
		if s.Off || target == "\x00" {
			continue
		}
		agents[s.Client] = plannedResource{"Agent", plainName(s.Client), s.File, map[string]any{"owner": owner, "stage": "development", "purpose": "found as " + s.Client}}
		if same[target] != "" {
			continue
		}
		name := plainName(s.Name)
		for i := 2; conns[name].Kind != ""; i++ {
			name = plainName(s.Name, fmt.Sprint(i))
		}
		same[target] = name
		conns[name] = connectionOf(name, owner, s, found.Secrets, secrets)
	}
	var out []plannedResource
	for _, m := range []map[string]plannedResource{agents, conns, secrets} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			out = append(out, m[k])
		}
	}
	return out
}

func connectionOf(name, owner string, s discovery.Server, all []discovery.Secret, secrets map[string]plannedResource) plannedResource {
	spec := map[string]any{"kind": "mcp", "owner": owner, "description": "found in the configuration of " + s.Client}
	env := map[string]string{}
	if s.URL != "" {
		spec["url"] = s.URL
	} else {
		spec["command"] = s.Command
	}
	for _, x := range all {
		if x.File != s.File || x.Server != s.Name {
			continue
		}
		secret := plainName(name, x.Name)
		from := strings.ToUpper(strings.ReplaceAll(secret, "-", "_"))
		if x.Refers != "" {
			from = x.Refers
		}
		p := plannedResource{"Secret", secret, x.File, map[string]any{"owner": owner, "connection": name, "from": map[string]string{"env": from}}}
		switch {
		case s.URL == "" && slices.Contains(s.Env, x.Name):
			env[x.Name] = "secret://" + secret
		case s.URL != "" && x.Name == s.Auth:
			spec["secret"], spec["auth"] = secret, "header:"+x.Name
			if strings.EqualFold(x.Name, "Authorization") {
				spec["auth"] = "bearer"
			}
			if u, err := url.Parse(s.URL); err == nil {
				p.Spec["hosts"] = []string{u.Host}
			}
		default:
			continue // an argument or a part of a URL: it has no place here, and is shown by scan
		}
		secrets[secret] = p
	}
	if len(env) > 0 {
		spec["env"] = env
	}
	return plannedResource{"Connection", name, s.File, spec}
}

func manifestText(all []plannedResource) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Written by countersign import. It holds no value.\n")
	for i, r := range all {
		if i > 0 {
			b.WriteString("---\n")
		}
		text, err := yaml.Marshal(struct {
			Kind string         `yaml:"kind"`
			Name string         `yaml:"name"`
			Spec map[string]any `yaml:"spec"`
		}{r.Kind, r.Name, r.Spec})
		if err != nil {
			return nil, err
		}
		b.Write(text)
	}
	return b.Bytes(), nil
}
