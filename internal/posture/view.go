package posture

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/posture/framework"
)

// Row is a predicate with its newest result, as it counts now.
type Row struct {
	Predicate
	Result     Result    `json:"result" enum:"PASS,FAIL,NO_DATA,NOT_APPLICABLE,MANUAL"`
	Reason     string    `json:"reason,omitempty"`
	Population int64     `json:"population"`
	Evaluated  int64     `json:"evaluated"`
	Violated   int64     `json:"violated"`
	Collected  time.Time `json:"collected,omitzero"`
	Expires    time.Time `json:"expires,omitzero"`
	Evidence   string    `json:"evidence,omitempty"`
	Event      string    `json:"event,omitempty" doc:"of the log, with the digest of the evidence"`
}

// Counted is how many requirements of a framework have each result.
type Counted struct {
	ID           string         `json:"id"`
	Title        string         `json:"title"`
	Version      string         `json:"version"`
	Requirements int            `json:"requirements"`
	Results      map[Result]int `json:"results"`
}

// Overview is everything at a glance. There is no score: what is absent would
// count in it.
type Overview struct {
	Predicates []Row     `json:"predicates"`
	Frameworks []Counted `json:"frameworks"`
}

// For is a predicate as evidence for a requirement.
type For struct {
	Row
	Why string `json:"why" doc:"why it is evidence for the requirement"`
}

// Requirement is a requirement of a framework with what is evidence for it.
type Requirement struct {
	Framework string `json:"framework"`
	framework.Requirement
	Result   Result         `json:"result" enum:"PASS,FAIL,NO_DATA,NOT_APPLICABLE,MANUAL"`
	Reason   string         `json:"reason,omitempty"`
	Asked    string         `json:"asked,omitempty" doc:"the identifier that was asked for, if it was another"`
	Note     string         `json:"note,omitempty" doc:"how that was read"`
	See      []string       `json:"see,omitempty"`
	Evidence []For          `json:"evidence"`
	Shares   map[Result]int `json:"shares,omitempty" doc:"of the period, in percent, each result's share"`
}

// Catalog is a framework with its requirements.
type Catalog struct {
	ID           string        `json:"id"`
	Title        string        `json:"title"`
	Version      string        `json:"version"`
	Publisher    string        `json:"publisher"`
	Source       string        `json:"source"`
	Licence      string        `json:"licence"`
	Note         string        `json:"note,omitempty"`
	Days         int           `json:"days" doc:"of the period of shares, until now"`
	Requirements []Requirement `json:"requirements"`
}

// Detail is a predicate with its newest evidence.
type Detail struct {
	Row
	Newest *Stored          `json:"newest,omitempty"`
	For    []framework.Link `json:"for" doc:"the requirements that it is evidence for"`
	Shares map[Result]int   `json:"shares" doc:"of the last 90 days, in percent, each result's share"`
}

func (s *Service) row(p Predicate, newest map[string]Stored) Row {
	x, ok := newest[p.ID]
	if !ok {
		return Row{Predicate: p, Result: NoData, Reason: "it was not computed yet; run countersign posture run"}
	}
	r := Row{Predicate: p, Population: x.Population, Evaluated: x.Evaluated, Violated: x.Violated, Collected: x.Collected, Expires: x.Expires, Evidence: x.ID, Event: x.Event}
	r.Result, r.Reason = x.At(s.o.Now())
	if x.Version != p.Version {
		r.Result, r.Reason = NoData, "it was computed by another version of the predicate; run countersign posture run"
	}
	return r
}

// Overview returns the newest result of every predicate and, counted, of every
// framework's requirements.
func (s *Service) Overview(ctx context.Context) (Overview, error) {
	newest, err := s.latest(ctx)
	if err != nil {
		return Overview{}, err
	}
	out := Overview{Predicates: []Row{}, Frameworks: []Counted{}}
	for _, p := range predicates {
		out.Predicates = append(out.Predicates, s.row(p, newest))
	}
	for _, f := range framework.All() {
		c := Counted{ID: f.ID, Title: f.Title, Version: f.Version, Results: map[Result]int{}}
		for _, r := range f.Requirements {
			if !r.Withdrawn {
				c.Requirements++
				c.Results[s.requirement(f.ID, r, newest).Result]++
			}
		}
		out.Frameworks = append(out.Frameworks, c)
	}
	return out, nil
}

// requirement says how a requirement stands.
func (s *Service) requirement(in string, r framework.Requirement, newest map[string]Stored) Requirement {
	out := Requirement{Framework: in, Requirement: r, Evidence: []For{}}
	var results []Result
	for _, l := range framework.Of(in, r.ID) {
		if p, ok := find(l.Predicate); ok {
			row := s.row(p, newest)
			out.Evidence, results = append(out.Evidence, For{row, l.Why}), append(results, row.Result)
		}
	}
	switch {
	case r.Withdrawn:
		out.Result, out.Reason = NotApplicable, r.Title
	case r.Coverage == framework.Manual:
		out.Result, out.Reason = ByHand, "nothing here is evidence for it; the organisation attests it"
	case len(results) == 0:
		out.Result, out.Reason = NoData, "no predicate is evidence for it yet"
	default:
		out.Result = Worst(results...)
		for _, e := range out.Evidence {
			if e.Result == out.Result && e.Reason != "" {
				out.Reason = e.ID + ": " + e.Reason
				break
			}
		}
		if out.Result == Pass && r.Coverage == framework.Partial {
			out.Reason = "for the part that is seen from here; the organisation adds the rest"
		}
	}
	return out
}

// Catalog returns a framework with how each requirement stands, and what it was
// over the last days: a report of type II is about a period.
func (s *Service) Catalog(ctx context.Context, id string, days int) (Catalog, error) {
	f, ok := framework.Get(id)
	if !ok {
		return Catalog{}, ErrUnknown
	}
	newest, err := s.latest(ctx)
	if err != nil {
		return Catalog{}, err
	}
	over, err := s.period(ctx, days)
	if err != nil {
		return Catalog{}, err
	}
	out := Catalog{ID: f.ID, Title: f.Title, Version: f.Version, Publisher: f.Publisher, Source: f.Source, Licence: f.Licence, Note: f.Note, Days: days, Requirements: []Requirement{}}
	for _, r := range f.Requirements {
		q := s.requirement(f.ID, r, newest)
		q.Shares = over.shares(q.Evidence)
		out.Requirements = append(out.Requirements, q)
	}
	return out, nil
}

// Requirement returns how a requirement stands, and stood over the last days, by
// any of its spellings.
func (s *Service) Requirement(ctx context.Context, text string, days int) (Requirement, error) {
	r, ok := framework.Resolve(text)
	if !ok || r.ID == "" {
		return Requirement{}, ErrUnknown
	}
	f, _ := framework.Get(r.Framework)
	q, _ := f.Requirement(r.ID)
	newest, err := s.latest(ctx)
	if err != nil {
		return Requirement{}, err
	}
	over, err := s.period(ctx, days)
	if err != nil {
		return Requirement{}, err
	}
	out := s.requirement(f.ID, q, newest)
	out.Shares = over.shares(out.Evidence)
	out.Note, out.See = r.Note, r.See
	if text != r.ID && text != r.Framework+"/"+r.ID {
		out.Asked = text
	}
	return out, nil
}

// Detail returns a predicate with its newest evidence.
func (s *Service) Detail(ctx context.Context, id string) (Detail, error) {
	p, ok := find(id)
	if !ok {
		return Detail{}, ErrUnknown
	}
	newest, err := s.latest(ctx)
	if err != nil {
		return Detail{}, err
	}
	d := Detail{Row: s.row(p, newest), For: framework.For(id)}
	if x, ok := newest[id]; ok {
		d.Newest = &x
	}
	trend, err := s.Trends(ctx, id, defaultDays)
	if err == nil {
		d.Shares = trend[0].Shares
	}
	return d, err
}

// Evidence returns one result as it was stored.
func (s *Service) Evidence(ctx context.Context, id string) (Stored, error) {
	found, err := s.read(ctx, ` WHERE id = $1`, id)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Stored{}, err
	}
	return found[0], nil
}
