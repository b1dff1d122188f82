package incident

import (
	"cmp"
	"context"
	"encoding/json/v2"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/inventory"
	"github.com/countersign/countersign/internal/posture/bundle"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/undo"
)

// Options of a Service. All but Now are required.
type Options struct {
	DB  *storage.DB
	Log *audit.Log
	// Finding returns a finding.
	Finding func(ctx context.Context, id string) (findings.Finding, error)
	// Search finds events by what they are about, when the index is fresh.
	Search func(ctx context.Context, q search.Query, p search.Page) (search.Result, error)
	// Reach returns what an agent may touch, inventory.ErrNoAgent if it is not there.
	Reach func(ctx context.Context, agent string) (inventory.Tree, error)
	// Plan says how a run would be undone.
	Plan func(ctx context.Context, run string) (undo.Plan, error)
	// Prove returns the proof file of an event, when it is sealed; Bundle signs files
	// as one.
	Prove  func(ctx context.Context, event string) ([]byte, error)
	Bundle func(ctx context.Context, files []bundle.File, at time.Time) ([]byte, error)
	// Owns reports whether a person owns an object, such as agent/payer.
	Owns    rest.Owns
	Version string
	Now     func() time.Time
}

// Service keeps incidents.
type Service struct{ o Options }

// New returns a Service.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Log == nil || o.Finding == nil || o.Search == nil || o.Reach == nil || o.Plan == nil || o.Prove == nil || o.Bundle == nil || o.Owns == nil {
		return nil, errors.New("incident: an option is missing")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o}, nil
}

// Open opens an incident. Needs a reason.
func (s *Service) Open(ctx context.Context, by audit.Actor, reason string, st Start) (Incident, error) {
	reason, err := because(reason)
	if err != nil {
		return Incident{}, err
	}
	now := s.o.Now()
	i := Incident{ID: id.At(ID, now), State: Open, Severity: findings.High, Opened: now.UTC().Truncate(time.Microsecond), OpenedBy: by.Name, Reason: reason}
	if err := s.begin(ctx, &i, st); err != nil {
		return Incident{}, err
	}
	if i.reach, err = s.reach(ctx, i.Scope.Agents); err != nil {
		return Incident{}, err
	}
	err = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(event("incident.opened", by, i, reason, map[string]any{"title": i.Title, "severity": i.Severity, "finding": i.Finding, "agents": i.Scope.Agents, "runs": i.Scope.Runs, "since": i.Scope.Since}))
		return insert(ctx, tx, i)
	})
	return i, err
}

// begin fills in what an incident is about.
func (s *Service) begin(ctx context.Context, i *Incident, st Start) (err error) {
	given := 0
	for _, v := range []string{st.Finding, st.Agent, st.Run} {
		if v != "" {
			given++
		}
	}
	if given != 1 {
		return ErrWhat
	}
	i.Scope = Scope{Agents: []string{}, Runs: []string{}, Objects: []string{}}
	switch {
	case st.Finding != "":
		err = s.fromFinding(ctx, i, st.Finding)
	case st.Agent != "":
		i.Title, i.Scope.Agents, i.Scope.Objects, i.Scope.Since = "agent "+st.Agent, []string{st.Agent}, []string{"agent/" + st.Agent}, i.Opened.Add(-24*time.Hour)
		err = s.known(ctx, st.Agent)
	default:
		err = s.fromRun(ctx, i, st.Run)
	}
	if err != nil {
		return err
	}
	i.Title, i.Severity = cut(cmp.Or(st.Title, i.Title), 300), cmp.Or(st.Severity, i.Severity)
	if !st.Since.IsZero() {
		i.Scope.Since = st.Since
	}
	i.Scope.Since, i.Scope.Until = i.Scope.Since.UTC().Truncate(time.Microsecond), st.Until.UTC().Truncate(time.Microsecond)
	switch {
	case !slices.Contains(findings.Severities, i.Severity):
		return ErrWhat.Say("an incident's severity must be one of %s", strings.Join(findings.Severities, ", "))
	case i.Scope.Since.After(i.Opened), !i.Scope.Until.IsZero() && !i.Scope.Until.After(i.Scope.Since):
		return ErrTime
	}
	return nil
}

// before is how long before the first sign of it an incident begins.
const before = time.Hour

func (s *Service) fromFinding(ctx context.Context, i *Incident, finding string) error {
	f, err := s.o.Finding(ctx, finding)
	if err != nil {
		return err
	}
	i.Finding, i.Title, i.Severity = f.ID, f.Title, f.Severity
	i.Scope.Objects = append(i.Scope.Objects, f.Object)
	i.Scope.Since = f.First.Add(-before)
	if f.Agent != "" {
		i.Scope.Agents = append(i.Scope.Agents, f.Agent)
	}
	recs, err := s.o.Log.GetMany(ctx, f.Events)
	if err != nil {
		return err
	}
	for _, r := range recs {
		ev := r.Event
		if t := ev.Time.Add(-before); t.Before(i.Scope.Since) {
			i.Scope.Since = t
		}
		if ev.Run != "" && !slices.Contains(i.Scope.Runs, ev.Run) && len(i.Scope.Runs) < mostRuns {
			i.Scope.Runs = append(i.Scope.Runs, ev.Run)
		}
		if ev.Agent != "" && !slices.Contains(i.Scope.Agents, ev.Agent) && len(i.Scope.Agents) < mostAgents {
			i.Scope.Agents = append(i.Scope.Agents, ev.Agent)
		}
	}
	return nil
}

func (s *Service) fromRun(ctx context.Context, i *Incident, run string) error {
	recs, err := s.o.Log.List(ctx, audit.Query{Run: run, Oldest: true, Limit: 1})
	if err != nil {
		return err
	}
	if len(recs) == 0 {
		return ErrNothing.Say("the log holds no run %.100q", run)
	}
	i.Title, i.Scope.Runs, i.Scope.Objects, i.Scope.Since = "run "+run, []string{run}, []string{"run/" + run}, recs[0].Event.Time
	return nil
}

// known fails if neither the inventory nor the log knows an agent.
func (s *Service) known(ctx context.Context, agent string) error {
	if _, err := s.o.Reach(ctx, agent); err == nil || !errors.Is(err, inventory.ErrNoAgent) {
		return err
	}
	recs, err := s.o.Log.List(ctx, audit.Query{Agent: agent, Limit: 1})
	if err == nil && len(recs) == 0 {
		return ErrNothing.Say("there is no agent %.63q, and the log holds nothing of it", agent)
	}
	return err
}

// reach returns what agents may touch; those that are gone are left out.
func (s *Service) reach(ctx context.Context, agents []string) ([]inventory.Tree, error) {
	out := []inventory.Tree{}
	for _, a := range agents {
		t, err := s.o.Reach(ctx, a)
		if errors.Is(err, inventory.ErrNoAgent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// List returns incidents, the latest first. An empty state is any.
func (s *Service) List(ctx context.Context, state, before string, limit int) ([]Incident, error) {
	if limit <= 0 {
		limit = 100
	}
	return read(ctx, s.o.DB, ` WHERE ($1 = '' OR state = $1) AND ($2 = '' OR id < $2) ORDER BY id DESC LIMIT $3`, state, before, min(limit, 1000))
}

// Get returns an incident.
func (s *Service) Get(ctx context.Context, incident string) (Incident, error) {
	return s.get(ctx, s.o.DB, incident)
}

func (s *Service) get(ctx context.Context, q querier, incident string) (Incident, error) {
	found, err := read(ctx, q, ` WHERE id = $1`, incident)
	if err != nil {
		return Incident{}, err
	}
	if len(found) == 0 {
		return Incident{}, ErrNotFound
	}
	return found[0], nil
}

// Note adds a note to an open incident.
func (s *Service) Note(ctx context.Context, by audit.Actor, incident, text string) (Remark, error) {
	text = strings.TrimSpace(text)
	if text == "" || utf8.RuneCountInString(text) > 4000 || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return Remark{}, ErrNote
	}
	now := s.o.Now()
	r := Remark{ID: id.At(Note, now), At: now.UTC().Truncate(time.Microsecond), By: by.Name, Text: text}
	err := s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		i, err := s.get(ctx, tx, incident)
		if err != nil {
			return err
		}
		if i.State == Closed {
			return ErrClosed
		}
		tx.Record(event("incident.noted", by, i, "", map[string]any{"note": text, "id": r.ID}))
		recorded := tx.Recorded()
		if r.Text, err = redacted(recorded[len(recorded)-1]); err != nil { // what the log keeps of it, secrets replaced
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO incident_notes (id, incident, at, by_name, body) VALUES ($1, $2, $3, $4, $5)`, r.ID, incident, storage.Micros(now), by.Name, r.Text)
		return err
	})
	return r, err
}

func redacted(ev audit.Event) (string, error) {
	var d struct {
		Note string `json:"note"`
	}
	err := json.Unmarshal(ev.Detail, &d)
	return d.Note, err
}

// Close ends an incident: its time ends now, if it had no end. Needs a reason,
// which is the conclusion.
func (s *Service) Close(ctx context.Context, by audit.Actor, incident, conclusion string) (Incident, error) {
	conclusion, err := because(conclusion)
	if err != nil {
		return Incident{}, err
	}
	var i Incident
	err = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		if i, err = s.get(ctx, tx, incident); err != nil {
			return err
		}
		i.State, i.Closed, i.ClosedBy, i.Conclusion = Closed, s.o.Now().UTC().Truncate(time.Microsecond), by.Name, conclusion
		err := tx.ExecOne(ctx, `UPDATE incidents SET state = 'closed', closed = $1, closed_by = $2, conclusion = $3 WHERE id = $4 AND state = 'open'`, storage.Micros(i.Closed), by.Name, conclusion, incident)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrClosed
		}
		tx.Record(event("incident.closed", by, i, conclusion, nil))
		return err
	})
	return i, err
}

func because(reason string) (string, error) {
	reason = strings.TrimSpace(reason)
	if reason == "" || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) {
		return "", ErrReason
	}
	return reason, nil
}

func cut(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	for len(s) > most {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

func event(t audit.Type, by audit.Actor, i Incident, reason string, v map[string]any) audit.Event {
	ev := audit.Event{Type: t, Actor: by, Object: "incident/" + i.ID, Reason: reason}
	if v != nil {
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			b = nil // cannot be: plain values
		}
		ev.Detail = b
	}
	return ev
}
