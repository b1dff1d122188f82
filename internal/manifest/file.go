package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// Limits of what is read.
const (
	MaxFiles     = 1000
	MaxFile      = 1 << 20 // bytes
	MaxResources = 10000
	maxDepth     = 16  // nesting of a document
	maxProblems  = 100 // more are not told apart
)

// ErrFiles is returned when there is nothing to read or too much of it.
var ErrFiles = fault.New(fault.Invalid, "bad_files", "apply takes 1 to 1000 files of at most 1 MiB")

// File is one file as it came.
type File struct {
	Name string `json:"name" doc:"path, for messages; .yaml, .yml or .cedar"`
	Text string `json:"text"`
	// Document says that it is an OpenAPI document which a connection names,
	// and holds no resources.
	Document bool `json:"document,omitzero" doc:"an OpenAPI document that a connection names (spec.openapi.file), of any name"`
}

// Problem is something wrong in a file.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty" doc:"from 1; 0: the file as a whole"`
	Column  int    `json:"column,omitempty"`
	Field   string `json:"field,omitempty" doc:"such as spec.owner"`
	Message string `json:"message"`
}

// String returns "file:line:column: field: message".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Column > 0 {
		fmt.Fprintf(&b, ":%d", p.Column)
	}
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	return b.String() + p.Message
}

// Parse reads files. If there is any problem, nothing may be done with the
// resources. The result is in the order in which it must be applied.
func Parse(files []File) ([]Resource, []Problem) {
	p := &parser{seen: map[string]place{}, documents: map[string]*document{}}
	if len(files) == 0 || len(files) > MaxFiles {
		return nil, []Problem{{Message: ErrFiles.Message}}
	}
	names := map[string]bool{}
	for _, f := range files {
		if names[f.Name] {
			p.problem(place{file: f.Name}, "", "the file is there twice")
			continue
		}
		names[f.Name] = true
		if f.Document {
			p.documents[path.Clean(f.Name)] = &document{text: f.Text}
			continue
		}
		p.file(f)
	}
	p.attach()
	if len(p.problems) > 0 {
		return nil, p.sorted()
	}
	slices.SortStableFunc(p.resources, func(a, b Resource) int { return cmp.Compare(order(a.Kind), order(b.Kind)) })
	return p.resources, nil
}

// parser gathers resources and problems.
type parser struct {
	resources []Resource
	problems  []Problem
	seen      map[string]place // kind and name -> where
	documents map[string]*document
}

// document is an OpenAPI document that was sent beside the resources.
type document struct {
	text  string
	named bool
}

// attach gives connections the documents that they name.
func (p *parser) attach() {
	for _, r := range p.resources {
		spec, ok := r.Spec.(*ConnectionSpec)
		if !ok || spec.OpenAPI == nil || spec.OpenAPI.File == "" {
			continue
		}
		d := p.documents[path.Join(path.Dir(r.at.file), spec.OpenAPI.File)]
		if d == nil {
			p.problem(r.where("spec.openapi.file"), "spec.openapi.file", "the file %s was not sent with this one", cut(spec.OpenAPI.File))
			continue
		}
		d.named, spec.OpenAPI.text = true, d.text
	}
	for _, name := range slices.Sorted(maps.Keys(p.documents)) {
		if !p.documents[name].named && len(p.problems) == 0 {
			p.problem(place{file: name}, "", "no connection names this document")
		}
	}
}

// place is a position in a file.
type place struct {
	file         string
	line, column int
}

func (p *parser) problem(at place, field, format string, args ...any) {
	if len(p.problems) < maxProblems {
		p.problems = append(p.problems, Problem{File: at.file, Line: at.line, Column: at.column, Field: field, Message: fmt.Sprintf(format, args...)})
	}
}

func (p *parser) sorted() []Problem {
	slices.SortStableFunc(p.problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, a.Column-b.Column)
	})
	return p.problems
}

func (p *parser) file(f File) {
	at := place{file: f.Name}
	switch base := baseName(f.Name); {
	case len(f.Text) > MaxFile:
		p.problem(at, "", "the file is over %d bytes", MaxFile)
	case !utf8.ValidString(f.Text) || strings.ContainsRune(f.Text, 0):
		p.problem(at, "", "the file is not UTF-8 text")
	case strings.HasSuffix(base, "_test.yaml") || strings.HasSuffix(base, "_test.yml"):
		// Expectations for policy test lie beside the policies.
	case strings.HasSuffix(base, ".yaml") || strings.HasSuffix(base, ".yml"):
		p.yaml(f)
	case strings.HasSuffix(base, ".cedar"):
		p.cedar(f, strings.TrimSuffix(base, ".cedar"))
	default:
		p.problem(at, "", "the file name must end in .yaml, .yml or .cedar")
	}
}

func baseName(path string) string {
	if i := strings.LastIndexAny(path, `/\`); i >= 0 {
		return path[i+1:]
	}
	return path
}

func (p *parser) cedar(f File, name string) {
	at := place{file: f.Name, line: 1, column: 1}
	r := Resource{Kind: KindPolicy, Name: name, at: at, fields: map[string]place{}, Spec: &PolicySpec{Text: f.Text}}
	if !nameForms[KindPolicy].MatchString(name) {
		p.problem(place{file: f.Name}, "", "the file's name is the policy's: lower-case letters, digits, dots, hyphens and underscores")
		return
	}
	p.add(r)
}

// add keeps a resource unless it is there already.
func (p *parser) add(r Resource) {
	key := r.Kind + "/" + r.Name
	if first, twice := p.seen[key]; twice {
		p.problem(r.at, "name", "%s %s is already in %s, line %d", r.Kind, r.Name, first.file, first.line)
		return
	}
	if len(p.resources) == MaxResources {
		p.problem(r.at, "", "more than %d resources", MaxResources)
		return
	}
	p.seen[key] = r.at
	p.resources = append(p.resources, r)
}
