package connections

import "slices"

// Named is a tool with its connection.
type Named struct {
	Connection Connection
	Tool       Tool
}

// ModelNames returns the names under which a model may be told about a tool:
// its own, with its connection's before it as /mcp and well-known clients write
// it, and each in the letters that providers allow.
func ModelNames(connection, tool string) []string {
	var out []string
	for _, name := range []string{
		tool, connection + "__" + tool, "mcp__" + connection + "__" + tool, connection + "_" + tool, "mcp_" + connection + "_" + tool,
		connection + "-" + tool, connection + "." + tool,
	} {
		for _, n := range []string{name, plainName(name)} {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

// plainName writes a name in the letters that providers of models allow.
func plainName(name string) string {
	b := []byte(name)
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			b[i] = '_'
		}
	}
	return string(b)
}

// Named returns every tool that a model may know under a name. The slice must
// not be changed.
func (s *Service) Named(name string) []Named { return s.current.Load().named[name] }

// naming indexes the tools that models are told about by every name they may have.
func (snap *snapshot) naming() {
	snap.named = map[string][]Named{}
	for _, c := range snap.connections {
		if c.Kind == LLM || c.Dialect == Git {
			continue
		}
		for _, t := range snap.tools[c.Name] {
			if !t.Offered() || !t.Callable() {
				continue
			}
			for _, name := range ModelNames(c.Name, t.Name) {
				snap.named[name] = append(snap.named[name], Named{c, t})
			}
		}
	}
}
