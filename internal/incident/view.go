package incident

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/incident/account"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/undo"
)

// View returns an incident as it stands now. With contents, what the caller may see
// of them is in it, and that they were seen is recorded before they are returned.
func (s *Service) View(ctx context.Context, c rest.Caller, incident string, contents bool) (View, error) {
	v, recs, err := s.view(ctx, incident)
	if err != nil {
		return View{}, err
	}
	if contents {
		err = s.reveal(ctx, c, &v, recs)
	}
	if !contents || !c.May(rest.Inspect) {
		v.withoutArguments()
	}
	return v, err
}

// withoutArguments takes what calls would be undone with out of the plans: it comes
// from contents.
func (v *View) withoutArguments() {
	for i := range v.Undo {
		if v.Undo[i].Plan != nil {
			for j := range v.Undo[i].Plan.Steps {
				v.Undo[i].Plan.Steps[j].Args = nil
			}
		}
	}
}

func (s *Service) view(ctx context.Context, incident string) (v View, recs []audit.Record, err error) {
	if v.Incident, err = s.Get(ctx, incident); err != nil {
		return v, nil, err
	}
	if v.Notes, err = readNotes(ctx, s.o.DB, incident); err != nil {
		return v, nil, err
	}
	if recs, v.More, err = s.records(ctx, v.Incident); err != nil {
		return v, nil, err
	}
	raw := make([][]byte, len(recs))
	for i := range recs {
		raw[i] = recs[i].Raw
	}
	if v.Account, err = account.Of(raw); err != nil {
		return v, nil, err
	}
	if v.Undo, err = s.plans(ctx, v.Account); err != nil {
		return v, nil, err
	}
	if v.ReachThen = v.reach; v.ReachThen == nil {
		v.ReachThen, err = s.reach(ctx, nil)
	}
	if err == nil {
		v.ReachNow, err = s.reach(ctx, agentsOf(v))
	}
	return v, recs, err
}

func agentsOf(v View) []string {
	all := slices.Clone(v.Scope.Agents)
	for _, a := range v.Account.Agents {
		if !slices.Contains(all, a.Name) && len(all) < mostAgents {
			all = append(all, a.Name)
		}
	}
	return all
}

// records gathers the events that belong to an incident, in the order of time.
func (s *Service) records(ctx context.Context, i Incident) ([]audit.Record, bool, error) {
	g := gathering{s: s, found: map[string]audit.Record{}, since: i.Scope.Since, until: i.Scope.Until}
	if g.until.IsZero() && i.State == Closed {
		g.until = i.Closed.Add(time.Microsecond) // its own end belongs to it
	}
	for _, run := range i.Scope.Runs {
		if err := g.list(ctx, audit.Query{Run: run, Until: g.until}); err != nil {
			return nil, false, err
		}
	}
	for _, agent := range i.Scope.Agents {
		if err := g.list(ctx, audit.Query{Agent: agent, Since: g.since, Until: g.until}); err != nil {
			return nil, false, err
		}
	}
	if err := g.about(ctx, append([]string{"incident/" + i.ID}, i.Scope.Objects...)); err != nil {
		return nil, false, err
	}
	if err := g.about(ctx, g.objects(i)); err != nil {
		return nil, false, err
	}
	ids := slices.Sorted(maps.Keys(g.found))
	more := g.more || len(ids) > mostEvents
	ids = ids[:min(len(ids), mostEvents)]
	out := make([]audit.Record, len(ids))
	for n, id := range ids {
		out[n] = g.found[id]
	}
	return out, more, nil
}

type gathering struct {
	s            *Service
	found        map[string]audit.Record
	since, until time.Time
	more         bool
}

// list adds what a query selects, the oldest first, up to the bound.
func (g *gathering) list(ctx context.Context, q audit.Query) error {
	q.Oldest, q.Limit = true, 1000
	for n := 0; n < mostEvents; n += q.Limit {
		recs, err := g.s.o.Log.List(ctx, q)
		if err != nil {
			return err
		}
		for _, r := range recs {
			g.found[r.Event.ID] = r
		}
		if len(recs) < q.Limit {
			return nil
		}
		q.After = recs[len(recs)-1].Event.ID
	}
	g.more = true
	return nil
}

// objects names what else events may be about: the runs, and the calls that may
// have changed something (their undoing), and the agents.
func (g *gathering) objects(i Incident) []string {
	var out []string
	for _, a := range i.Scope.Agents {
		out = append(out, "agent/"+a)
	}
	runs := map[string]bool{}
	for _, r := range g.found {
		if run := r.Event.Run; run != "" && !runs[run] && len(runs) < mostRuns {
			runs[run] = true
			out = append(out, "run/"+run)
		}
		if r.Event.Type == audit.CallIntent && r.Event.Effect != "read" && len(out) < 500 {
			out = append(out, "call/"+r.Event.Call)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// about adds events about objects, in the incident's time.
func (g *gathering) about(ctx context.Context, objects []string) error {
	const at = 25 // values in a query
	for chunk := range slices.Chunk(objects, at) {
		var quoted []string
		for _, o := range chunk {
			if !strings.ContainsAny(o, `"*`) {
				quoted = append(quoted, `"`+o+`"`)
			}
		}
		if len(quoted) == 0 {
			continue
		}
		text := "object:" + strings.Join(quoted, ",") + " since:" + g.since.UTC().Format(time.RFC3339)
		if !g.until.IsZero() {
			text += " until:" + g.until.Add(time.Second).UTC().Format(time.RFC3339)
		}
		q, err := search.Parse(text, g.s.o.Now())
		if err != nil {
			return err
		}
		if err := g.find(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func (g *gathering) find(ctx context.Context, q search.Query) error {
	p := search.Page{Oldest: true, Limit: 1000}
	for n := 0; n < mostEvents; n += p.Limit {
		res, err := g.s.o.Search(ctx, q, p)
		if err != nil {
			return err
		}
		for _, r := range res.Records {
			if g.until.IsZero() || r.Event.Time.Before(g.until) {
				g.found[r.Event.ID] = r
			}
		}
		if res.Next == "" {
			return nil
		}
		p.After = res.Next
	}
	g.more = true
	return nil
}

// plans says how the runs that may have changed something would be undone.
func (s *Service) plans(ctx context.Context, a account.Account) ([]Undo, error) {
	out := []Undo{}
	for _, r := range a.Runs {
		if r.Effects == 0 || len(out) == mostRuns {
			continue
		}
		p, err := s.o.Plan(ctx, r.ID)
		switch {
		case err == nil:
			out = append(out, Undo{Run: r.ID, Plan: &p})
		case errors.Is(err, undo.ErrNothing), errors.Is(err, undo.ErrLong):
			out = append(out, Undo{Run: r.ID, Why: fault.Public(err).Message})
		default:
			return nil, err
		}
	}
	return out, nil
}

// mostContents is how many bytes of contents a view shows at most.
const mostContents = 8 << 20

// reveal adds the contents that the caller may see: all of them who may inspect,
// those of their own agents who owns some. That they were seen is recorded first.
func (s *Service) reveal(ctx context.Context, c rest.Caller, v *View, recs []audit.Record) error {
	recs, err := s.seen(ctx, c, recs)
	if err != nil || len(recs) == 0 {
		return err
	}
	if err := s.o.Log.LoadPayloads(ctx, recs); err != nil {
		return err
	}
	left := mostContents
	for _, r := range recs {
		for _, p := range r.Event.Payloads {
			body, there := r.Payloads[p.Name]
			if left -= len(body); left < 0 {
				v.ContentsMore = true
				continue
			}
			out := Content{Event: r.Event.ID, Name: p.Name, Erased: !there && p.Level != audit.Digest}
			if utf8.Valid(body) {
				out.Text = string(body)
			} else {
				out.Base64 = base64.StdEncoding.EncodeToString(body)
			}
			v.Contents = append(v.Contents, out)
		}
	}
	return s.read(ctx, c, v.ID)
}

// read records that somebody saw the contents of an incident.
func (s *Service) read(ctx context.Context, c rest.Caller, incident string) error {
	return s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "contents.read", Actor: audit.Person(c.ID, c.Name), Remote: c.Remote, Credential: c.Credential, Object: "incident/" + incident, Reason: c.Reason})
		return nil
	})
}

// seen returns the records with contents that the caller may see.
func (s *Service) seen(ctx context.Context, c rest.Caller, recs []audit.Record) (out []audit.Record, err error) {
	mine := map[string]bool{}
	for _, r := range recs {
		agent := r.Event.Agent
		if _, asked := mine[agent]; !asked && agent != "" && !c.May(rest.Inspect) {
			owns, err := s.o.Owns(ctx, c.Name, "agent/"+agent)
			if err != nil && fault.KindOf(err) != fault.NotFound {
				return nil, err
			}
			mine[agent] = owns && err == nil
		}
		if len(r.Event.Payloads) > 0 && (c.May(rest.Inspect) || mine[agent]) {
			out = append(out, r)
		}
	}
	return out, nil
}
