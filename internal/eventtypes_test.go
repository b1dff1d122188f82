package internal_test

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/export"
)

// TestEveryEventTypeIsExportedAsSomething finds every constant of type
// audit.Type in the product. An event type without a rule is exported as an API
// Activity of no kind, and a SIEM's rules do not see it: name it in
// internal/audit/export/class.go.
func TestEveryEventTypeIsExportedAsSomething(t *testing.T) {
	found := eventTypes(t)
	for _, known := range []string{"call.intent", "agent.created", "policy.updated", "grant.given", "tool.drifted"} {
		if found[known] == "" {
			t.Errorf("%s was not found: this test does not see what it should", known)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if !export.Mapped(audit.Type(name)) {
			t.Errorf("%s: the event type %q has no rule in internal/audit/export/class.go", found[name], name)
		}
	}
	if export.Mapped("never.heardof") {
		t.Error("everything is mapped: the test cannot fail")
	}
}

// listed is what go list tells of a package.
type listed struct {
	ImportPath, Export, Dir string
	GoFiles                 []string
	Standard                bool
}

// eventTypes type-checks every package that knows audit, and returns the event
// types in it with where they are.
func eventTypes(t *testing.T) map[string]string {
	t.Helper()
	const audits = module + "internal/audit"
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export,Dir,GoFiles,Standard", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]listed{}
	dec := jsontext.NewDecoder(bytes.NewReader(out))
	for {
		var p listed
		if err := json.UnmarshalDecode(dec, &p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(all[path].Export) })
	found := map[string]string{}
	for _, p := range all {
		if p.Standard || !strings.HasPrefix(p.ImportPath, module) || strings.HasPrefix(p.ImportPath, audits+"/export") {
			continue
		}
		files, knows := parse(t, fset, p, audits)
		if !knows {
			continue
		}
		info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
		if _, err := (&types.Config{Importer: imports}).Check(p.ImportPath, fset, files, info); err != nil {
			t.Fatalf("%s: %v", p.ImportPath, err)
		}
		for expr, tv := range info.Types {
			if tv.Value != nil && tv.Value.Kind() == constant.String && tv.Type.String() == audits+".Type" {
				if name := constant.StringVal(tv.Value); name != "" {
					found[name] = fset.Position(expr.Pos()).String()
				}
			}
		}
	}
	return found
}

func parse(t *testing.T, fset *token.FileSet, p listed, audits string) (files []*ast.File, knows bool) {
	t.Helper()
	knows = p.ImportPath == audits
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		knows = knows || slices.Contains(imports(f), audits)
	}
	return files, knows
}
