package manifest

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/internal/connections"
)

// exportFiles says which file holds a kind.
var exportFiles = map[string]string{
	KindUser: "users.yaml", KindTeam: "teams.yaml", KindGroup: "groups.yaml", KindAgent: "agents.yaml", KindTrust: "trust.yaml", KindConnection: "connections.yaml",
	KindChannel: "channels.yaml", KindSecret: "secrets.yaml", KindTool: "tools.yaml", KindBudget: "budgets.yaml", KindDetection: "detection.yaml", KindGrant: "grants.yaml",
}

const secretsNote = "# Values are never exported. To apply these elsewhere, add to each: from: {env: NAME} or from: {file: PATH}\n"

// Export writes everything that Apply can read, in a fixed order and without
// the values of secrets. Applying the result here changes nothing.
func (s *Service) Export(ctx context.Context) ([]File, error) {
	if err := s.o.Watch.Poll(ctx); err != nil {
		return nil, err
	}
	st, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	keys := make([]key, 0, len(st.specs))
	for k := range st.specs {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(order(a.kind), order(b.kind)), strings.Compare(a.name, b.name))
	})
	var files []File
	for kind, group := range grouped(keys) {
		if kind == KindPolicy {
			for _, k := range group {
				files = append(files, File{Name: k.name + ".cedar", Text: st.specs[k].(*PolicySpec).Text})
			}
			continue
		}
		if kind == KindConnection {
			declared, err := s.exportDocuments(group)
			if err != nil {
				return nil, err
			}
			files = append(files, declared...)
		}
		text, err := documents(st, group)
		if err != nil {
			return nil, err
		}
		if kind == KindSecret {
			text = secretsNote + text
		}
		files = append(files, File{Name: exportFiles[kind], Text: text})
	}
	return files, nil
}

// grouped yields the keys of each kind, in order.
func grouped(keys []key) func(func(string, []key) bool) {
	return func(yield func(string, []key) bool) {
		for _, kind := range Kinds {
			var group []key
			for _, k := range keys {
				if k.kind == kind {
					group = append(group, k)
				}
			}
			if len(group) > 0 && !yield(kind, group) {
				return
			}
		}
	}
}

func documents(st *state, keys []key) (string, error) {
	var b strings.Builder
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	for _, k := range keys {
		doc := struct {
			Kind string `yaml:"kind"`
			Name string `yaml:"name"`
			Spec any    `yaml:"spec"`
		}{k.kind, k.name, st.specs[k]}
		if err := enc.Encode(doc); err != nil {
			return "", err
		}
	}
	err := enc.Close()
	return b.String(), err
}

// documentOf is the file in which a connection's document is exported.
func documentOf(connection string) string { return "openapi/" + connection + ".json" }

// exportDocuments writes the documents that declare operations.
func (s *Service) exportDocuments(keys []key) ([]File, error) {
	var files []File
	for _, k := range keys {
		tools := s.o.Connections.Documented(k.name, false)
		if len(tools) == 0 {
			continue
		}
		text, err := connections.WriteDocument(tools)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: documentOf(k.name), Text: string(text), Document: true})
	}
	return files, nil
}
