package discovery

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

var (
	variable  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,199}$`)
	refers    = regexp.MustCompile(`^\$\{?(?:env:|input:)?([A-Za-z_][A-Za-z0-9_.-]{0,199})(?::?-[^}]*)?\}?$`)
	ciSecret  = regexp.MustCompile(`secrets\.([A-Za-z_][A-Za-z0-9_]{0,199})|secrets\[['"]([A-Za-z_][A-Za-z0-9_]{0,199})['"]\]`)
	wholeExpr = regexp.MustCompile(`^\$\{\{[^{}]{0,500}\}\}$`)
)

// reference returns what a value refers to, if it holds no value itself.
func reference(v string) string {
	v = strings.TrimSpace(v)
	if m := refers.FindStringSubmatch(v); m != nil {
		if strings.Contains(v, "-") && strings.Contains(v, ":-") {
			return "" // ${VAR:-value} holds one
		}
		return m[1]
	}
	if wholeExpr.MatchString(v) {
		if m := ciSecret.FindStringSubmatch(v); m != nil {
			return m[1] + m[2]
		}
		return strings.TrimSpace(v[3 : len(v)-2])
	}
	return ""
}

// dotenv reads lines NAME=VALUE.
func (s *scanner) dotenv(file string, b []byte) string {
	for line := range strings.Lines(string(b)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		if !ok || strings.HasPrefix(line, "#") || !variable.MatchString(name) || !Credential(name) {
			continue
		}
		s.secret(file, "", name, strings.Trim(strings.TrimSpace(value), `"'`))
	}
	return ""
}

// github reads a workflow of GitHub Actions: the secrets that it uses, and
// variables that look like some and hold a value.
func (s *scanner) github(file string, b []byte) string {
	seen := map[string]bool{}
	for _, m := range ciSecret.FindAllStringSubmatch(string(b), maxItems) {
		if name := m[1] + m[2]; !seen[name] {
			seen[name] = true
			s.secret(file, "", name, "${{ secrets."+name+" }}")
		}
	}
	return s.variables(file, b, "env")
}

// gitlab reads the variables of .gitlab-ci.yml.
func (s *scanner) gitlab(file string, b []byte) string { return s.variables(file, b, "variables") }

// variables reads all mappings with a name in a YAML file.
func (s *scanner) variables(file string, b []byte, name string) string {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return "it is no YAML" // the cause may show a line of it
	}
	s.nodes(file, &doc, name, 0)
	return ""
}

const maxNesting = 50

func (s *scanner) nodes(file string, n *yaml.Node, name string, depth int) {
	if depth > maxNesting || n.Kind == yaml.AliasNode { // an alias stands somewhere as itself
		return
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Value == name && c.Kind == yaml.MappingNode {
			s.mapping(file, c)
		}
		s.nodes(file, c, name, depth+1)
	}
}

func (s *scanner) mapping(file string, n *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if v.Kind == yaml.MappingNode { // GitLab: {value: ..., description: ...}
			for j := 0; j+1 < len(v.Content); j += 2 {
				if v.Content[j].Value == "value" {
					v = v.Content[j+1]
					break
				}
			}
		}
		if v.Kind != yaml.ScalarNode || !Credential(k.Value) || v.Value == "" {
			continue
		}
		if ref := reference(v.Value); ref != "" && slices.ContainsFunc(s.found.Secrets, func(x Secret) bool { return x.File == file && x.Refers == ref }) {
			continue // told already by the secret's own name
		}
		s.secret(file, "", k.Value, v.Value)
	}
}
