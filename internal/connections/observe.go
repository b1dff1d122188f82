package connections

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
)

// The rules of the findings this room opens.
const (
	RuleDrift      = "tool.drifted"
	RuleNew        = "tool.new"
	RuleBadList    = "connection.bad_definitions"
	RuleUndiscover = "connection.undiscovered"
)

// sighting is one definition as seen now.
type sighting struct {
	def    Definition
	digest string
}

// digested remembers that some exact bytes have a digest.
type digested struct {
	raw    [sha256.Size]byte
	digest string
}

// Observe compares what an upstream says its tools are now (all of them, or a
// page) with their pins, and returns a verdict for each. Only tools that are
// Same may be shown and called. A difference is written down once, with a
// finding; a list in which nothing changed costs no write. A list that cannot
// be trusted (a name twice, too many, too large) is refused as a whole with
// ErrDefinitions.
//
// A tool that drifted stays drifted, whatever the upstream says next, until a
// person accepts it or looks again (Refresh).
func (s *Service) Observe(ctx context.Context, conn string, defs []Definition) (map[string]Verdict, error) {
	c, ok := s.Connection(conn)
	if !ok || c.Kind != MCP {
		return nil, ErrNotFound.Say("there is no mcp connection %q", clip(conn))
	}
	sights, err := s.sight(conn, defs)
	if err != nil {
		s.distrust(ctx, c, err)
		return nil, err
	}
	verdicts := make(map[string]Verdict, len(sights))
	if c.Discovered.IsZero() {
		for name := range sights {
			verdicts[name] = Unknown
		}
		return verdicts, s.note(ctx, undiscovered(c))
	}
	var write []sighting
	for name, seen := range sights {
		t, known := s.Tool(conn, name)
		verdicts[name] = verdict(t, known, seen.digest)
		if needsWrite(t, known, seen) && s.mayNote(t, known, seen) {
			write = append(write, seen)
		}
	}
	if len(write) == 0 {
		return verdicts, nil
	}
	return verdicts, s.writeDown(ctx, c, write)
}

func verdict(t Tool, known bool, digest string) Verdict {
	switch {
	case !known || t.Status == StatusNew:
		return Unknown
	case t.Status == StatusDrifted || t.Digest != digest:
		return Changed
	}
	return Same
}

// needsWrite reports whether the store does not yet say what was seen.
func needsWrite(t Tool, known bool, seen sighting) bool {
	switch {
	case !known:
		return true
	case t.Status == StatusPinned:
		return t.Digest != seen.digest
	case t.Status == StatusGone:
		return true
	case t.Status == StatusDrifted && t.Digest == seen.digest:
		return false // stays drifted until a person looks
	}
	return t.DriftDigest != seen.digest
}

// mayNote holds an upstream that says something else each time to one write a
// minute and tool. A tool's first departure from its pin is always written.
func (s *Service) mayNote(t Tool, known bool, seen sighting) bool {
	first := known && (t.Status == StatusPinned || t.Status == StatusGone)
	return first || s.noted.allow(t.Connection+"\x00"+seen.def.Name, s.now())
}

// sight checks and digests a list. Bytes seen before are only hashed.
func (s *Service) sight(conn string, defs []Definition) (map[string]sighting, error) {
	if len(defs) > MaxTools {
		return nil, ErrDefinitions.Say("the upstream lists %d tools, more than %d", len(defs), MaxTools)
	}
	sights := make(map[string]sighting, len(defs))
	for _, d := range defs {
		if _, twice := sights[d.Name]; twice {
			return nil, ErrDefinitions.Say("the upstream lists tool %s twice", shown(d.Name))
		}
		digest, err := s.digest(conn, d)
		if err != nil {
			return nil, err
		}
		sights[d.Name] = sighting{def: d, digest: digest}
	}
	return sights, nil
}

func (s *Service) digest(conn string, d Definition) (string, error) {
	key := conn + "\x00" + d.Name
	sum := sha256.Sum256(d.Raw)
	if v, ok := s.seen.Load(key); ok && v.(digested).raw == sum {
		return v.(digested).digest, nil
	}
	if _, err := parseDefinition(d); err != nil {
		return "", err
	}
	digest, err := Digest(d.Raw)
	if err != nil {
		return "", err
	}
	if _, known := s.Tool(conn, d.Name); known { // foreign names alone must not grow memory
		s.seen.Store(key, digested{raw: sum, digest: digest})
	}
	return digest, nil
}

// writeDown records differences: the tool's state, an event and a finding each,
// in one transaction. Who loses a race against another replica looks again.
func (s *Service) writeDown(ctx context.Context, c Connection, write []sighting) error {
	slices.SortFunc(write, func(a, b sighting) int { return strings.Compare(a.def.Name, b.def.Name) })
	var full, err error
	for range 3 {
		err = s.change(ctx, func(tx *audit.Tx) error {
			full, err = s.writeAll(ctx, tx, c, write)
			return err
		})
		if !errors.Is(err, ErrRaced) {
			break
		}
	}
	if err != nil {
		for _, seen := range write {
			s.noted.forget(c.Name + "\x00" + seen.def.Name)
		}
		return err
	}
	if full != nil {
		s.distrust(ctx, c, full)
	}
	return nil
}

// writeAll returns full when the upstream has named too many tools.
func (s *Service) writeAll(ctx context.Context, tx *audit.Tx, c Connection, write []sighting) (full, err error) {
	rows, err := toolRowsOf(ctx, tx, c.Name)
	if err != nil {
		return nil, err
	}
	byName := map[string]Tool{}
	for _, t := range rows {
		byName[t.Name] = t
	}
	look := s.suspects(c, append(names(byName), sighted(write)...))
	for _, seen := range write {
		t, known := byName[seen.def.Name]
		switch {
		case !needsWrite(t, known, seen): // another replica was first
			continue
		case !known && len(byName) >= MaxTools:
			full = ErrDefinitions.Say("the upstream has named more than %d different tools over time", MaxTools)
			continue
		}
		if byName[seen.def.Name], err = s.writeOne(ctx, tx, look, t, known, seen); err != nil {
			return full, err
		}
	}
	return full, nil
}

// writeOne moves one tool to what was seen of it and returns it.
func (s *Service) writeOne(ctx context.Context, tx *audit.Tx, look *suspects, old Tool, known bool, seen sighting) (Tool, error) {
	now, c := s.now(), look.c
	t, was := old, &old
	if !known {
		was = nil
		p, err := parseDefinition(seen.def)
		if err != nil {
			return t, err
		}
		t = Tool{ID: id.At(id.Tool, now), Connection: c.Name, Name: seen.def.Name, Effect: p.initial(c), Status: StatusNew}
	}
	kind := audit.Type("tool.drifted")
	switch {
	case t.Status == StatusNew:
		kind = "tool.appeared"
	case t.Digest == seen.digest: // was gone and is back as accepted
		t.Status, t.Drift, t.DriftDigest = StatusPinned, nil, ""
		kind = "tool.returned"
	default:
		t.Status = StatusDrifted
	}
	if t.Status != StatusPinned {
		t.Drift, t.DriftDigest, t.SeenAt = s.redactor.Redact(slices.Clone(seen.def.Raw)), seen.digest, now
	}
	if ok, err := putTool(ctx, tx.Tx, t, was); err != nil || !ok {
		return t, lost(err)
	}
	ev := toolEvent(kind, audit.System, "", t, map[string]any{"seen": t.DriftDigest, "was": old.Status})
	if err := record(ctx, tx, ev, audit.Payload{Name: "definition", Body: seen.def.Raw}); err != nil || t.Status == StatusPinned {
		return t, err
	}
	if err := s.findings.OpenTx(ctx, tx, toolFinding(c, t)); err != nil {
		return t, err
	}
	return t, look.at(ctx, tx, seen.def)
}

func sighted(list []sighting) (out []string) {
	for _, seen := range list {
		out = append(out, seen.def.Name)
	}
	return out
}

// lost returns why a tool could not be written: err, or a lost race.
func lost(err error) error {
	if err != nil {
		return err
	}
	return ErrRaced
}

func toolFinding(c Connection, t Tool) findings.Finding {
	f := findings.Finding{Rule: RuleDrift, Severity: "high", Object: toolObject(t.Connection, t.Name),
		Title:  fmt.Sprintf("Tool %s of %s is no longer what was accepted", t.Name, c.Name),
		Detail: fmt.Sprintf("Its definition changed; calls to it are refused. Look with: countersign tool diff %s/%s. Then accept it with the digest %s, or leave it refused.", c.Name, t.Name, t.DriftDigest)}
	if t.Status == StatusNew {
		f.Rule, f.Severity = RuleNew, "medium"
		f.Title = fmt.Sprintf("%s offers a tool nobody accepted: %s", c.Name, t.Name)
		f.Detail = fmt.Sprintf("Calls to it are refused and agents do not see it. Look with: countersign tool show %s/%s. Then accept it with the digest %s, or leave it refused.", c.Name, t.Name, t.DriftDigest)
	}
	return f
}

func undiscovered(c Connection) findings.Finding {
	return findings.Finding{Rule: RuleUndiscover, Severity: "medium", Object: "connection/" + c.Name,
		Title:  fmt.Sprintf("The tools of %s were never looked at", c.Name),
		Detail: fmt.Sprintf("All of its tools are refused. Pin what it offers with: countersign connection refresh %s.", c.Name)}
}

// distrust opens a finding for a list that cannot be trusted.
func (s *Service) distrust(ctx context.Context, c Connection, cause error) {
	f := findings.Finding{Rule: RuleBadList, Severity: "high", Object: "connection/" + c.Name,
		Title:  fmt.Sprintf("The tool list of %s cannot be trusted", c.Name),
		Detail: fault.Public(cause).Message + ". The whole list is refused until the upstream is mended."}
	if err := s.note(ctx, f); err != nil {
		s.logger.Error("cannot open a finding", "connection", c.Name, "rule", f.Rule, "error", err)
	}
}

// note opens a finding about a connection, at most one write a minute.
func (s *Service) note(ctx context.Context, f findings.Finding) error {
	key := f.Rule + "\x00" + f.Object
	if !s.noted.allow(key, s.now()) {
		return nil
	}
	err := s.findings.Open(ctx, f)
	if err != nil {
		s.noted.forget(key)
	}
	return err
}

// names returns the keys of m in order.
func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
