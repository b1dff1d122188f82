package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/countersign/countersign/"

// order is the floor plan as data. A line "a, b < c, d" says that c and d may
// import a and b, and whatever a and b may import. It is a statement of policy:
// when a build breaks it, move the code or argue for a new line in docs/design,
// never add a line to make the build pass.
const order = `
NONE < id, fault, approvals/statement, config, client, audit/tlog, dial, inspection, inert, gateway/llm/openai, gateway/llm/anthropic, example, audit/audittest, words, backup/archive, discovery

# the cellar
fault < storage
fault, id < rest
storage < job
storage < storage/storagetest
fault, id, storage < flow
flow < connections, manifest, gateway
approvals, flow, audit, storage, rest, fault, id < endorsements
endorsements, pseudonyms < gateway
audit, storage, fault, id < pseudonyms
fault, id, storage < runs
runs < gateway

# the ledger: knows nobody
id, fault, storage, job < audit
audit, rest, job < audit/search
audit, rest, job < audit/export
audit, audit/tlog, rest, job < audit/seal
audit, rest, job, audit/tlog < audit/seal
audit/seal, audit/search < audit/selfaudit

# the rooms
audit, storage, rest, job, fault, id < findings
audit, storage, rest, job, fault, id < locks
findings < budget
findings, locks < detection
storage, job < rates
rates < connections, detection
detection < manifest, server
connections < undo
undo < server
connections, policy, identity, locks < releases
releases < gateway, server
budget < manifest, gateway
findings, locks < identity
identity < connections, secrets, policy, tokens, approvals
approvals/statement < approvals
identity, approvals/statement < passkeys
inert < words, approvals
identity < leaks, signin, lifecycle
inspection < policy
dial < connections, tokens, gateway
words < connections, approvals
secrets/provider/wire, secrets < channels/send
approvals, secrets, channels/send, inert, words < channels
connections, secrets, policy, tokens, channels, reviews < manifest

# what is done to secrets, and with whom: each provider knows its own wire and
# nobody else's; the engines know no provider
secrets, findings, job < secrets/rotation, secrets/lease
secrets/rotation < secrets/provider/command
secrets/rotation, secrets/lease < secrets/provider/postgres
secrets, secrets/rotation < secrets/provider/openai, secrets/provider/webhook
secrets < secrets/provider/exchange, secrets/provider/vault, secrets/provider/local
fault, dial < secrets/provider/wire
secrets/provider/wire < secrets/provider/openai, secrets/provider/webhook, secrets/provider/exchange, secrets/provider/vault
secrets/provider/postgres, secrets/provider/command, secrets/provider/openai, secrets/provider/webhook < server
secrets/provider/exchange, secrets/provider/vault, secrets/provider/local < server

# what is used of what agents may
policy < use
use < server

# what there is: reads rooms, owns nothing
connections, policy, secrets < inventory
inventory < server

# evidence: reads rooms, changes none of them
NONE < posture/framework
audit/tlog < posture/bundle
posture/bundle < posture, cli
posture/framework < posture, cli
connections, policy, secrets, tokens, locks, approvals, findings, inventory, lifecycle, audit, job < posture
posture < server

# incidents: read rooms, keep notes
audit/tlog, posture/bundle < incident/account
incident/account < incident, cli
findings, inventory, undo, audit/search, posture/bundle, rest < incident
incident < server

# what was given is kept or taken back: by the verbs of rooms that do not know each other
connections, policy, secrets, tokens, locks, approvals, findings, audit, job < reviews
reviews < server

# the whole database, out and in
secrets, audit/seal, backup/archive < backup
backup < server
backup/archive, discovery < cli

# documents with readers
connections < knowledge
knowledge < gateway/retrieval
knowledge < server

# the line
identity, policy, secrets, connections, approvals, inspection, findings, audit < gateway
gateway < gateway/mcp
gateway < gateway/egress
gateway < gateway/retrieval
gateway, use < gateway/reach
gateway/reach < gateway/retrieval, server
gateway, gateway/llm/openai, gateway/llm/anthropic < gateway/llm

# the doors
client, audit/tlog, approvals/statement, config, example < cli
client, rest, inert < console
console < server
config < server
manifest < server
audit/search < server
audit/seal < server
audit/export < server
audit/selfaudit < server
gateway/llm < server
gateway/mcp < server
gateway/egress < server
gateway/retrieval < server
example < server
leaks, signin, lifecycle, passkeys < server
server, cli, backup/archive < cmd/countersign
`

// only names third-party and standard packages that must stay in few places
// (prefix -> the packages that may import it; a trailing /... covers a subtree).
var only = map[string][]string{
	"net/http": {
		"rest",
		"gateway/...",
		"server",
		"console",
		"client",
		"example/...",
		"secrets/provider/...",
		"cli",
		"audit/search",
		"audit/seal",
		"audit/export",
		"audit/selfaudit",
		"findings",
		"endorsements",
		"knowledge",
		"leaks",
		"lifecycle",
		"locks",
		"budget",
		"detection",
		"undo",
		"releases",
		"identity",
		"policy",
		"connections",
		"secrets",
		"secrets/rotation",
		"secrets/lease",
		"signin",
		"manifest",
		"approvals",
		"passkeys",
		"backup",
		"inventory",
		"incident",
		"posture",
		"use",
		"reviews",
		"channels/...",
		"tokens/...",
	},
	"database/sql": {
		"storage",
		"audit/...",
		"example/...",
		"identity",
		"policy",
		"connections",
		"secrets",
		"secrets/rotation",
		"secrets/lease",
		"findings",
		"inventory",
		"endorsements",
		"knowledge",
		"leaks",
		"lifecycle",
		"locks",
		"budget",
		"detection",
		"undo",
		"releases",
		"job",
		"signin",
		"manifest",
		"approvals",
		"passkeys",
		"channels",
		"tokens",
		"incident",
		"posture",
		"use",
		"reviews",
	},
	"github.com/cedar-policy":         {"policy"},
	"github.com/go-webauthn":          {"approvals/statement", "passkeys"},
	"github.com/tink-crypto":          {"secrets"},
	"gocloud.dev":                     {"secrets"},
	"github.com/jackc/pgx":            {"storage/...", "audit/...", "secrets/provider/postgres", "gateway/retrieval"},
	"modernc.org/sqlite":              {"storage/...", "example/..."},
	"github.com/danielgtaylor/huma":   {"rest"},
	"github.com/modelcontextprotocol": {"example/..."},
	"github.com/openai/openai-go":     {"example/..."},
	"github.com/anthropics":           {"example/..."},
	"github.com/coreos/go-oidc":       {"signin"},
	"golang.org/x/oauth2":             {"signin"},
	"go.opentelemetry.io":             {"audit/export"},
	"google.golang.org":               {"audit/export"},
	"filippo.io/age":                  {"backup/...", "backup", "server", "cli", "cmd/countersign"},
	"github.com/expr-lang":            {"detection"},
	"github.com/BurntSushi/toml":      {"discovery"},
	"github.com/nicholas-fedor":       {"channels/send"},
	"github.com/spf13/cobra":          {"cli"},
	"charm.land":                      {"cli"},
	"encoding/json":                   {}, // the v1 package: see DESIGN "one parser"; v2 and jsontext are matched exactly below
	"github.com/tidwall":              {},
	"testing":                         {"storage/storagetest", "secrets/leaktest"},
	"github.com/countersign/countersign/internal/storage/storagetest": {},
	"github.com/countersign/countersign/internal/audit/audittest":     {},
}

// handlers names the files of a room that may import net/http.
var handlers = []string{"http.go"}

var banned = []string{"util", "utils", "common", "helpers", "types", "models", "shared", "pkg"}

type file struct {
	pkg, name string
	imports   []string
}

func TestDependencies(t *testing.T) {
	allowed := closure(t)
	for _, f := range sources(t) {
		may, known := allowed[root(f.pkg, allowed)]
		if !known {
			t.Errorf("%s/%s: package %q is not in the floor plan; add it to the table with a reason", f.pkg, f.name, f.pkg)
			continue
		}
		for _, imp := range f.imports {
			ours, ok := strings.CutPrefix(imp, module)
			if !ok {
				continue
			}
			ours = strings.TrimPrefix(ours, "internal/")
			if root(ours, allowed) == root(f.pkg, allowed) || may[root(ours, allowed)] {
				continue
			}
			t.Errorf("%s/%s imports %s: not in the table", f.pkg, f.name, ours)
		}
	}
}

func TestForeignPackagesStayInTheirPlaces(t *testing.T) {
	for _, f := range sources(t) {
		for _, imp := range f.imports {
			for prefix, places := range only {
				if !under(imp, prefix) || imp == "encoding/json/v2" || imp == "encoding/json/jsontext" {
					continue
				}
				if !slices.ContainsFunc(places, func(p string) bool { return p == f.pkg || within(f.pkg, p) }) {
					t.Errorf("%s/%s may not import %s", f.pkg, f.name, imp)
				}
			}
		}
	}
}

func TestRoomsKeepHTTPInOneFile(t *testing.T) {
	for _, f := range sources(t) {
		switch {
		case within(f.pkg, "gateway/..."), within(f.pkg, "example/..."), within(f.pkg, "secrets/provider/..."), within(f.pkg, "tokens/oauth/..."), within(f.pkg, "channels/send/..."), slices.Contains([]string{"rest", "server", "client", "cli", "console"}, f.pkg):
			continue
		}
		if slices.Contains(f.imports, "net/http") && !slices.Contains(handlers, f.name) {
			t.Errorf("%s/%s imports net/http; only %v may", f.pkg, f.name, handlers)
		}
	}
}

func TestEveryPackageIsDocumentedAndWellNamed(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range sources(t) {
		if seen[f.pkg] {
			continue
		}
		seen[f.pkg] = true
		if slices.Contains(banned, path.Base(f.pkg)) {
			t.Errorf("package %s: a name that says nothing", f.pkg)
		}
		if f.pkg == "cmd/countersign" || f.pkg == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir(f.pkg), "doc.go")); err != nil {
			t.Errorf("package %s has no doc.go", f.pkg)
		}
	}
}

// closure reads order into: package -> everything it may import.
func closure(t *testing.T) map[string]map[string]bool {
	direct := map[string]map[string]bool{}
	for line := range strings.Lines(order) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		below, above, ok := strings.Cut(line, " < ")
		if !ok {
			t.Fatalf("bad line %q", line)
		}
		for _, a := range split(above) {
			if direct[a] == nil {
				direct[a] = map[string]bool{}
			}
			for _, b := range split(below) {
				if b != "NONE" {
					direct[a][b] = true
				}
			}
		}
	}
	all := map[string]map[string]bool{}
	var visit func(p string, path []string) map[string]bool
	visit = func(p string, path []string) map[string]bool {
		if slices.Contains(path, p) {
			t.Fatalf("the table has a cycle: %v", append(path, p))
		}
		if all[p] != nil {
			return all[p]
		}
		set := map[string]bool{}
		for d := range direct[p] {
			set[d] = true
			for x := range visit(d, append(path, p)) {
				set[x] = true
			}
		}
		all[p] = set
		return set
	}
	for p := range direct {
		visit(p, nil)
	}
	return all
}

// root returns the table's entry for pkg: itself, or the nearest listed parent,
// so that a room may have packages beneath it which only it shares.
func root(pkg string, table map[string]map[string]bool) string {
	for p := pkg; p != "." && p != ""; p = path.Dir(p) {
		if _, ok := table[p]; ok {
			return p
		}
	}
	return pkg
}

func split(list string) []string {
	var out []string
	for p := range strings.SplitSeq(list, ",") {
		out = append(out, strings.TrimSpace(p))
	}
	return out
}

func under(imp, prefix string) bool { return imp == prefix || strings.HasPrefix(imp, prefix+"/") }

func within(pkg, pattern string) bool {
	base, ok := strings.CutSuffix(pattern, "/...")
	return ok && under(pkg, base)
}

func dir(pkg string) string {
	for _, base := range []string{".", ".."} {
		p := filepath.Join(base, filepath.FromSlash(pkg))
		if info, err := os.Stat(p); err == nil && info.IsDir() {
			return p
		}
	}
	return pkg
}

// sources returns every non-test Go file of the product.
func sources(t *testing.T) []file {
	t.Helper()
	var out []file
	for _, top := range []string{".", "../cmd", "../client"} {
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			out = append(out, file{pkg: filepath.ToSlash(strings.TrimPrefix(filepath.Dir(p), "../")), name: filepath.Base(p), imports: imports(f)})
			return nil
		})
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if len(out) == 0 {
		t.Fatal("no sources found")
	}
	return out
}

func imports(f *ast.File) []string {
	var out []string
	for _, s := range f.Imports {
		out = append(out, strings.Trim(s.Path.Value, `"`))
	}
	return out
}

// expose lists the only files that may see a secret in plain: where it is put
// on its way, and where it is kept.
var expose = []string{"secrets/", "channels/send/", "gateway/forward.go", "gateway/guardsecret.go", "gateway/mcp/stdio/", "gateway/retrieval/postgres.go"}

func TestSecretsAreSeenInFewPlaces(t *testing.T) {
	for _, top := range []string{".", "../cmd", "../client"} {
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
				return err
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, p, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if ok && sel.Sel.Name == "Expose" && !slices.ContainsFunc(expose, func(allowed string) bool { return strings.HasPrefix(filepath.ToSlash(p), allowed) }) {
					t.Errorf("%s: Expose shows a secret; only %v may", fset.Position(sel.Pos()), expose)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
