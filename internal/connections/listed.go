package connections

// Listed is a tool as an upstream lists it now.
type Listed struct {
	Name    string
	Effect  string // as people said; of a tool that nobody accepted, as its annotations would count
	Verdict Verdict
}

// Compare says of each definition how it compares with what was accepted. It
// writes nothing down. A list that cannot be trusted is refused as a whole
// (ErrDefinitions).
func (s *Service) Compare(conn string, defs []Definition) ([]Listed, error) {
	c, ok := s.Connection(conn)
	if !ok || c.Kind != MCP {
		return nil, ErrNotFound.Say("there is no mcp connection %q", clip(conn))
	}
	sights, err := s.sight(conn, defs)
	if err != nil {
		return nil, err
	}
	out := make([]Listed, 0, len(sights))
	for _, name := range names(sights) {
		seen := sights[name]
		t, known := s.Tool(conn, name)
		l := Listed{Name: name, Effect: t.Effect, Verdict: verdict(t, known, seen.digest)}
		if !known {
			p, err := parseDefinition(seen.def)
			if err != nil {
				return nil, err
			}
			l.Effect = p.initial(c)
		}
		out = append(out, l)
	}
	return out, nil
}
