package framework

import (
	"embed"
	"encoding/json/v2"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
)

// How far the state of this product is evidence for a requirement.
const (
	Direct  = "direct"  // it shows it, for the AI that goes by way of this product
	Partial = "partial" // it shows some of it; the organisation adds the rest
	Manual  = "manual"  // it shows nothing of it
)

// Framework is a catalog of requirements.
type Framework struct {
	ID           string        `json:"id"`
	Title        string        `json:"title"`
	Version      string        `json:"version"`
	Publisher    string        `json:"publisher"`
	Source       string        `json:"source"`
	Licence      string        `json:"licence" doc:"of what is in the catalog here"`
	Note         string        `json:"note,omitempty"`
	Control      string        `json:"control,omitzero" doc:"how a requirement is called in OSCAL, {id} being its identifier; empty: as it is"`
	Target       string        `json:"target,omitzero" doc:"how its statement is called in OSCAL"`
	Requirements []Requirement `json:"requirements"`
}

// Requirement is one entry of a framework.
type Requirement struct {
	ID        string   `json:"id"`
	Title     string   `json:"title"`
	Group     string   `json:"group,omitzero"`
	Coverage  string   `json:"coverage" enum:"direct,partial,manual" doc:"how far the state of this product can be evidence for it"`
	Shows     string   `json:"shows,omitzero" doc:"what such evidence can show, or not"`
	Withdrawn bool     `json:"withdrawn,omitzero"`
	MovedTo   []string `json:"moved_to,omitzero"`
}

// Link says that a predicate is evidence for a requirement, and why.
type Link struct {
	Predicate string `json:"predicate"`
	Framework string `json:"framework"`
	ID        string `json:"id"`
	Title     string `json:"title"`
	Why       string `json:"why"`
}

// Ref is the requirement's name with its framework: nist-csf-2.0/PR.AA-05.
func (l Link) Ref() string { return l.Framework + "/" + l.ID }

// Requirement returns the entry with an identifier.
func (f *Framework) Requirement(id string) (Requirement, bool) {
	i := slices.IndexFunc(f.Requirements, func(r Requirement) bool { return r.ID == id })
	if i < 0 {
		return Requirement{}, false
	}
	return f.Requirements[i], true
}

//go:embed data/*.json
var data embed.FS

// order is that in which frameworks are shown.
var order = []string{"owasp-nhi-2025", "owasp-asi-2026", "nist-csf-2.0", "eu-ai-act", "iso-42001", "soc2"}

type catalog struct {
	frameworks []Framework
	links      []Link
}

// loaded is the embedded data, which a test reads: it does not fail later.
var loaded = sync.OnceValue(func() catalog {
	c, err := load(data)
	if err != nil {
		panic("posture/framework: " + err.Error())
	}
	return c
})

func load(files fs.FS) (c catalog, err error) {
	for _, name := range order {
		var f Framework
		if err := read(files, name, &f); err != nil {
			return c, err
		}
		if f.ID != name {
			return c, fmt.Errorf("%s.json calls itself %q", name, f.ID)
		}
		c.frameworks = append(c.frameworks, f)
	}
	return c, read(files, "mapping", &c.links)
}

func read(files fs.FS, name string, v any) error {
	b, err := fs.ReadFile(files, "data/"+name+".json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("%s.json: %w", name, err)
	}
	return nil
}

// All returns every framework, in the order in which they are shown. They must
// not be changed.
func All() []Framework { return loaded().frameworks }

// Get returns a framework by its identifier.
func Get(id string) (*Framework, bool) {
	all := loaded().frameworks
	i := slices.IndexFunc(all, func(f Framework) bool { return f.ID == id })
	if i < 0 {
		return nil, false
	}
	return &all[i], true
}

// Links returns the whole mapping. It must not be changed.
func Links() []Link { return loaded().links }

// Of returns the links of a requirement.
func Of(framework, id string) []Link {
	var out []Link
	for _, l := range Links() {
		if l.Framework == framework && l.ID == id {
			out = append(out, l)
		}
	}
	return out
}

// For returns the links of a predicate.
func For(predicate string) []Link {
	var out []Link
	for _, l := range Links() {
		if l.Predicate == predicate {
			out = append(out, l)
		}
	}
	return out
}

// Lint says what is wrong with the catalog and the mapping: identifiers and
// titles that do not exist, requirements that are named twice, evidence for what
// is said to have none. predicates are those that there are.
func Lint(predicates []string) []string { return loaded().lint(predicates) }

func (c catalog) lint(predicates []string) (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, f := range c.frameworks {
		problems = append(problems, f.lint()...)
	}
	seen := map[string]bool{}
	for _, l := range c.links {
		at := l.Predicate + " -> " + l.Ref()
		if seen[at] {
			say("%s is there twice", at)
		}
		seen[at], seen[l.Predicate] = true, true
		if !slices.Contains(predicates, l.Predicate) {
			say("%s: there is no predicate %s", at, l.Predicate)
		}
		if strings.TrimSpace(l.Why) == "" {
			say("%s: it does not say why", at)
		}
		i := slices.IndexFunc(c.frameworks, func(f Framework) bool { return f.ID == l.Framework })
		if i < 0 {
			say("%s: there is no framework %s", at, l.Framework)
			continue
		}
		switch r, ok := c.frameworks[i].Requirement(l.ID); {
		case !ok:
			say("%s: there is no requirement %s", at, l.ID)
		case r.Title != l.Title:
			say("%s: its title is %q, not %q", at, r.Title, l.Title)
		case r.Withdrawn:
			say("%s: it was withdrawn", at)
		case r.Coverage == Manual:
			say("%s: the catalog says that nothing here is evidence for it", at)
		}
	}
	for _, p := range predicates {
		if !seen[p] {
			say("%s is evidence for nothing", p)
		}
	}
	return problems
}

func (f *Framework) lint() (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if f.Title == "" || f.Version == "" || f.Publisher == "" || f.Source == "" || f.Licence == "" {
		say("%s: title, version, publisher, source and licence are needed", f.ID)
	}
	ids := map[string]bool{}
	for _, r := range f.Requirements {
		at := f.ID + "/" + r.ID
		if r.ID == "" || r.Title == "" || ids[r.ID] {
			say("%s: an identifier is empty or there twice, or a title is missing", at)
		}
		ids[r.ID] = true
		if !slices.Contains([]string{Direct, Partial, Manual}, r.Coverage) {
			say("%s: coverage %q", at, r.Coverage)
		}
		for _, to := range r.MovedTo {
			if next, ok := f.Requirement(to); !ok || next.Withdrawn {
				say("%s moved to %s, which is not there", at, to)
			}
		}
	}
	return problems
}
