package connections

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
)

// Refreshed says what Refresh found, by tool name in order.
type Refreshed struct {
	First   bool     `json:"first" doc:"the connection's first discovery: everything found was pinned"`
	Pinned  []string `json:"pinned" doc:"pinned now, in the name of the person"`
	Same    []string `json:"same" doc:"as accepted"`
	Changed []string `json:"changed" doc:"drifted: refused until accepted"`
	New     []string `json:"new" doc:"never accepted: refused until accepted"`
	Gone    []string `json:"gone" doc:"accepted, but no longer offered"`
}

// Refresh asks an upstream for its tools. The first time, everything it offers
// is pinned in the name of the person who asks. Later, differences are shown as
// Observe shows them, tools it no longer offers are marked gone, and a drifted
// tool that is again what was accepted is cleared: a person is looking.
func (s *Service) Refresh(ctx context.Context, by audit.Actor, reason, name string) (Refreshed, error) {
	c, ok := s.Connection(name)
	switch {
	case !ok:
		return Refreshed{}, ErrNotFound.Say("there is no connection %q", clip(name))
	case c.Kind != MCP:
		return Refreshed{}, bad("kind", "only mcp connections have tools to discover; those of an http connection are imported (countersign connection import-openapi) or listed, others are built in")
	}
	if err := checkReason(reason, false); err != nil {
		return Refreshed{}, err
	}
	d := s.discover.Load()
	if d == nil {
		return Refreshed{}, ErrUndiscover
	}
	defs, err := (*d).Discover(ctx, by, c)
	if err != nil {
		return Refreshed{}, err
	}
	return s.compare(ctx, by, reason, c, defs)
}

// compare pins definitions, the first time, or shows how they differ from
// their pins.
func (s *Service) compare(ctx context.Context, by audit.Actor, reason string, c Connection, defs []Definition) (Refreshed, error) {
	name := c.Name
	sights, err := s.sight(name, defs)
	if err != nil {
		s.distrust(ctx, c, err)
		return Refreshed{}, err
	}
	var out Refreshed
	for range 3 { // who loses a race against another replica looks again
		err = s.change(ctx, func(tx *audit.Tx) error {
			out, err = s.refresh(ctx, tx, by, reason, name, sights)
			return err
		})
		if !errors.Is(err, ErrRaced) {
			break
		}
	}
	return out, err
}

func (s *Service) refresh(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string, sights map[string]sighting) (Refreshed, error) {
	c, found, err := connectionRow(ctx, tx, name)
	if err != nil {
		return Refreshed{}, err
	}
	if !found {
		return Refreshed{}, ErrNotFound.Say("there is no connection %q any more", name)
	}
	why := first(reason, "a person looked, and the list is sound")
	if err := s.findings.CloseObjectTx(ctx, tx, by, "connection/"+name, why, RuleUndiscover, RuleBadList); err != nil {
		return Refreshed{}, err
	}
	if !c.Discovered.IsZero() {
		return s.lookAgain(ctx, tx, by, reason, c, sights)
	}
	first, err := claimDiscovery(ctx, tx.Tx, name, s.now())
	if err != nil || !first {
		return Refreshed{}, lost(err)
	}
	out := Refreshed{First: true}
	look := s.suspects(c, names(sights))
	for _, n := range names(sights) {
		p, err := parseDefinition(sights[n].def)
		if err != nil {
			return out, err
		}
		t := Tool{ID: id.At(id.Tool, s.now()), Connection: name, Name: n, Effect: p.initial(c)}
		if err := s.pin(ctx, tx, by, reason, t, nil, sights[n]); err != nil {
			return out, err
		}
		if err := look.at(ctx, tx, sights[n].def); err != nil {
			return out, err
		}
		out.Pinned = append(out.Pinned, n)
	}
	return out, record(ctx, tx, connectionEvent("connection.discovered", by, reason, c, map[string]any{"tools": len(sights)}))
}

// pin accepts what was seen of a tool. was is nil for a tool without a row.
func (s *Service) pin(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, t Tool, was *Tool, seen sighting) error {
	t.Status, t.Digest, t.Definition = StatusPinned, seen.digest, s.redactor.Redact(slices.Clone(seen.def.Raw))
	t.Drift, t.DriftDigest, t.PinnedBy, t.PinnedAt = nil, "", by.Name, s.now()
	if ok, err := putTool(ctx, tx.Tx, t, was); err != nil || !ok {
		return lost(err)
	}
	return record(ctx, tx, toolEvent("tool.pinned", by, reason, t, nil), audit.Payload{Name: "definition", Body: seen.def.Raw})
}

func (s *Service) lookAgain(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, c Connection, sights map[string]sighting) (Refreshed, error) {
	var out Refreshed
	rows, err := toolRowsOf(ctx, tx, c.Name)
	if err != nil {
		return out, err
	}
	rows = slices.DeleteFunc(rows, declared) // what is imported says nothing about operations that files declare
	byName := map[string]Tool{}
	for _, t := range rows {
		byName[t.Name] = t
	}
	look := s.suspects(c, names(sights))
	for _, n := range names(sights) {
		t, known := byName[n]
		switch seen := sights[n]; {
		case known && t.Status == StatusDrifted && t.Digest == seen.digest:
			err = s.settle(ctx, tx, by, reason, t, StatusPinned)
			out.Same = append(out.Same, n)
		case !needsWrite(t, known, seen):
			out.add(t, seen)
		case !known && len(byName) >= MaxTools:
			err = ErrDefinitions.Say("the upstream has named more than %d different tools over time", MaxTools)
		default:
			t, err = s.writeOne(ctx, tx, look, t, known, seen)
			byName[n] = t
			out.add(t, seen)
		}
		if err != nil {
			return out, err
		}
	}
	return out, s.markGone(ctx, tx, by, reason, &out, rows, sights)
}

func (r *Refreshed) add(t Tool, seen sighting) {
	switch verdict(t, true, seen.digest) {
	case Unknown:
		r.New = append(r.New, seen.def.Name)
	case Changed:
		r.Changed = append(r.Changed, seen.def.Name)
	default:
		r.Same = append(r.Same, seen.def.Name)
	}
}

// markGone marks accepted tools that are no longer offered, and drops those
// that were never accepted.
func (s *Service) markGone(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, out *Refreshed, rows []Tool, sights map[string]sighting) error {
	slices.SortFunc(rows, func(a, b Tool) int { return strings.Compare(a.Name, b.Name) })
	for _, t := range rows {
		if _, there := sights[t.Name]; there {
			continue
		}
		out.Gone = append(out.Gone, t.Name)
		if t.Status == StatusGone {
			continue
		}
		if err := s.settle(ctx, tx, by, reason, t, StatusGone); err != nil {
			return err
		}
	}
	return nil
}

// settle ends a tool's drift without accepting it: it is as it was accepted
// (StatusPinned), or no longer there (StatusGone; one never accepted is dropped).
func (s *Service) settle(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, t Tool, status string) error {
	kind, was := audit.Type("tool.returned"), t
	if status == StatusGone {
		kind = "tool.gone"
	}
	if was.Status == StatusNew {
		if _, err := tx.Exec(ctx, `DELETE FROM tools WHERE connection = $1 AND name = $2 AND status = $3`, t.Connection, t.Name, StatusNew); err != nil {
			return err
		}
	} else {
		t.Status, t.Drift, t.DriftDigest = status, nil, ""
		if ok, err := putTool(ctx, tx.Tx, t, &was); err != nil || !ok {
			return lost(err)
		}
	}
	if was.Status == StatusDrifted || was.Status == StatusNew {
		why := first(reason, "looked again: the tool is "+status)
		if err := s.findings.CloseObjectTx(ctx, tx, by, toolObject(t.Connection, t.Name), why, RuleDrift, RuleNew); err != nil {
			return err
		}
	}
	return record(ctx, tx, toolEvent(kind, by, reason, t, map[string]any{"was": was.Status}))
}

// Accept pins a drifted or new tool to what the upstream says now. Needs a
// reason. Who shows the definition to a person uses AcceptSeen.
func (s *Service) Accept(ctx context.Context, by audit.Actor, reason, conn, tool string) error {
	t, ok := s.Tool(conn, tool)
	if !ok {
		return ErrNoTool.Say("there is no tool %s in %q", shown(tool), clip(conn))
	}
	return s.AcceptSeen(ctx, by, reason, conn, tool, t.DriftDigest)
}

// AcceptSeen pins a drifted or new tool to the definition with the given
// digest, the one the person looked at. If the upstream has said something else
// in the meantime it is refused with ErrDigest. Needs a reason.
func (s *Service) AcceptSeen(ctx context.Context, by audit.Actor, reason, conn, tool, digest string) error {
	return s.change(ctx, func(tx *audit.Tx) error { return s.AcceptSeenTx(ctx, tx, by, reason, conn, tool, digest) })
}

// AcceptSeenTx is AcceptSeen inside a change.
func (s *Service) AcceptSeenTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, conn, tool, digest string) error {
	if err := checkReason(reason, true); err != nil {
		return err
	}
	t, err := s.toolTx(ctx, tx, conn, tool)
	switch {
	case err != nil:
		return err
	case t.Status != StatusDrifted && t.Status != StatusNew:
		return ErrNothingNew
	case digest == "" || digest != t.DriftDigest:
		return ErrDigest
	}
	was := t
	detail := map[string]any{"was": was.Digest, "differences": len(Diff(was.Definition, was.Drift))}
	now, err := parseDefinition(Definition{Name: tool, Raw: t.Drift})
	if err != nil {
		return err
	}
	if t.Status == StatusDrifted {
		old, err := parseDefinition(Definition{Name: tool, Raw: t.Definition})
		if err != nil {
			return err
		}
		t.Effect = raised(t.Effect, old, now)
	}
	if t.Effect != was.Effect {
		detail["effect"] = [2]string{was.Effect, t.Effect}
	}
	t.Status, t.Definition, t.Digest, t.Drift, t.DriftDigest = StatusPinned, t.Drift, t.DriftDigest, nil, ""
	t.PinnedBy, t.PinnedAt = by.Name, s.now()
	if ok, err := putTool(ctx, tx.Tx, t, &was); err != nil || !ok {
		return lost(err)
	}
	if err := s.findings.CloseObjectTx(ctx, tx, by, toolObject(conn, tool), reason, RuleDrift, RuleNew); err != nil {
		return err
	}
	return record(ctx, tx, toolEvent("tool.accepted", by, reason, t, detail), audit.Payload{Name: "definition", Body: t.Definition})
}

// SetEffect says what a tool does; it reports whether that changed anything.
// Needs a reason when it does.
func (s *Service) SetEffect(ctx context.Context, by audit.Actor, reason, conn, tool, effect string) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.SetEffectTx(ctx, tx, by, reason, conn, tool, effect)
		return err
	})
	return changed, err
}

// ToolsTx returns a connection's tools, built-in ones too, as a change sees them;
// none if there is no such connection.
func (s *Service) ToolsTx(ctx context.Context, tx *audit.Tx, connection string) ([]Tool, error) {
	c, found, err := connectionRow(ctx, tx, connection)
	if err != nil || !found {
		return nil, err
	}
	rows, err := toolRowsOf(ctx, tx, connection)
	return append(builtinTools(c), rows...), err
}

// SetEffectTx is SetEffect inside a change.
func (s *Service) SetEffectTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, conn, tool, effect string) (bool, error) {
	if rank(effect) == 0 {
		return false, ErrEffect.Say("effect: %q must be read, write or irreversible", clip(effect))
	}
	t, err := s.toolTx(ctx, tx, conn, tool)
	switch {
	case err != nil:
		return false, err
	case t.Effect == effect:
		return false, nil
	case t.Status == StatusNew:
		return false, ErrNothingNew.Say("tool %s/%s was never accepted; accept it before saying what it does", conn, t.Name)
	}
	if err := checkReason(reason, true); err != nil {
		return false, err
	}
	was := t
	t.Effect = effect
	if ok, err := putTool(ctx, tx.Tx, t, &was); err != nil || !ok {
		return false, lost(err)
	}
	return true, record(ctx, tx, toolEvent("tool.effect_set", by, reason, t, map[string]any{"effect": [2]string{was.Effect, effect}}))
}

// toolTx reads a discovered tool inside a transaction.
func (s *Service) toolTx(ctx context.Context, tx *audit.Tx, conn, tool string) (Tool, error) {
	c, found, err := connectionRow(ctx, tx, conn)
	if err != nil {
		return Tool{}, err
	}
	if !found {
		return Tool{}, ErrNotFound.Say("there is no connection %q", clip(conn))
	}
	if builtinName(c, tool) {
		return Tool{}, ErrBuiltin
	}
	t, found, err := toolRow(ctx, tx, conn, tool)
	if err == nil && !found {
		err = ErrNoTool.Say("there is no tool %s in %s", shown(tool), conn)
	}
	return t, err
}
