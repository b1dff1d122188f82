package detection

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"
)

//go:embed rules/*.yaml
var files embed.FS

// document is a rule in a file, as apply reads it too.
type document struct {
	Kind string `yaml:"kind"`
	Name string `yaml:"name"`
	Spec Spec   `yaml:"spec"`
}

// Kind is the kind of resource that a rule is in files.
const Kind = "Detection"

// ReadSpecs reads rules from a file's text.
func ReadSpecs(body []byte) ([]Spec, error) {
	dec := yaml.NewDecoder(bytes.NewReader(body))
	dec.KnownFields(true)
	var out []Spec
	for {
		var d document
		err := dec.Decode(&d)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, ErrRule.Say("the file cannot be read: %s", err)
		}
		if d.Kind != Kind {
			return nil, ErrRule.Say("kind must be %s, not %.40q", Kind, d.Kind)
		}
		d.Spec.ID = d.Name
		out = append(out, d.Spec)
	}
}

// builtin are the rules in the binary. A broken one is a broken build.
func builtin() ([]Spec, error) {
	names, err := files.ReadDir("rules")
	if err != nil {
		return nil, err
	}
	var out []Spec
	for _, f := range names {
		body, err := files.ReadFile("rules/" + f.Name())
		if err != nil {
			return nil, err
		}
		specs, err := ReadSpecs(body)
		if err != nil {
			return nil, fmt.Errorf("rules/%s: %w", f.Name(), err)
		}
		out = append(out, specs...)
	}
	return out, nil
}

// Check compiles a rule and runs its test cases: one that does not do what it
// says of itself is refused.
func Check(s Spec) error {
	_, err := checked(s)
	return err
}

func checked(s Spec) (*rule, error) {
	r, err := compileRule(s)
	if err != nil {
		return nil, err
	}
	for _, t := range tryRule(r) {
		if !t.Passed {
			return nil, ErrRule.Say("%s: tests.%.60s: %s", s.ID, t.Case, t.Problem)
		}
	}
	return r, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
