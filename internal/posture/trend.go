package posture

import (
	"context"
	"slices"
	"time"
)

// The periods over which a trend is told, in days.
const (
	defaultDays = 90
	mostDays    = 400
)

// Segment is a time during which a predicate had one result, with as much wrong.
type Segment struct {
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
	Result     Result    `json:"result" enum:"PASS,FAIL,NO_DATA,NOT_APPLICABLE,MANUAL"`
	Evidence   string    `json:"evidence,omitempty" doc:"the newest in it; none: there was none, or it had expired"`
	Population int64     `json:"population"`
	Evaluated  int64     `json:"evaluated"`
	Violated   int64     `json:"violated"`
}

// Trend is how a predicate went over a period.
type Trend struct {
	Predicate string         `json:"predicate"`
	Name      string         `json:"name"`
	Shares    map[Result]int `json:"shares" doc:"percent of the period by result, rounded down"`
	Segments  []Segment      `json:"segments" doc:"the whole period, the oldest first"`
}

// between is the result of a predicate from a time on.
type between struct {
	result                          Result
	at, expiry                      time.Time
	evidence                        string
	population, evaluated, violated int64
}

// Trends tells how predicates went over the last days, all of them if none is
// named.
func (s *Service) Trends(ctx context.Context, predicate string, days int) ([]Trend, error) {
	if _, ok := find(predicate); predicate != "" && !ok {
		return nil, ErrUnknown
	}
	now := s.o.Now()
	from := now.Add(-time.Duration(days) * day)
	all, err := s.history(ctx, from)
	if err != nil {
		return nil, err
	}
	out := []Trend{}
	for _, p := range predicates {
		if predicate == "" || p.ID == predicate {
			line := timeline(all[p.ID], from, now)
			out = append(out, Trend{Predicate: p.ID, Name: p.Name, Segments: line, Shares: shares(line)})
		}
	}
	return out, nil
}

// timeline covers from until now without a gap. A result counts until the next, or
// until it expired; the rest, the time before the first included, has no data.
func timeline(all []between, from, now time.Time) (out []Segment) {
	at := from
	add := func(x Segment) {
		if !x.To.After(x.From) {
			return
		}
		at = x.To
		if n := len(out); n > 0 {
			if last := &out[n-1]; last.Result == x.Result && last.Violated == x.Violated && (last.Evidence == "") == (x.Evidence == "") {
				x.From = last.From
				*last = x
				return
			}
		}
		out = append(out, x)
	}
	for i, b := range all {
		begin, end := b.at, b.expiry
		if i+1 < len(all) && all[i+1].at.Before(end) {
			end = all[i+1].at
		}
		if begin.Before(at) {
			begin = at
		}
		if end.After(now) {
			end = now
		}
		if !end.After(begin) {
			continue
		}
		add(Segment{From: at, To: begin, Result: NoData})
		add(Segment{From: begin, To: end, Result: b.result, Evidence: b.evidence, Population: b.population, Evaluated: b.evaluated, Violated: b.violated})
	}
	add(Segment{From: at, To: now, Result: NoData})
	return out
}

// together is what several predicates, that must all hold, came to over a time
// that each of them covers.
func together(lines ...[]Segment) (out []Segment) {
	if len(lines) == 1 {
		return lines[0]
	}
	var ends []time.Time
	for _, l := range lines {
		for _, x := range l {
			ends = append(ends, x.To)
		}
	}
	slices.SortFunc(ends, time.Time.Compare)
	at := make([]int, len(lines))
	for _, end := range slices.CompactFunc(ends, time.Time.Equal) {
		var results []Result
		from := end
		for i, l := range lines {
			for at[i] < len(l)-1 && l[at[i]].To.Before(end) {
				at[i]++
			}
			results = append(results, l[at[i]].Result)
			from = l[0].From
		}
		if n := len(out); n > 0 {
			from = out[n-1].To
		}
		out = append(out, Segment{From: from, To: end, Result: Worst(results...)})
	}
	return out
}

// shares is how many percent of a timeline had each result, rounded down: a share
// is not made larger than it is.
func shares(line []Segment) map[Result]int {
	spent := map[Result]time.Duration{}
	var whole time.Duration
	for _, x := range line {
		spent[x.Result] += x.To.Sub(x.From)
		whole += x.To.Sub(x.From)
	}
	out := map[Result]int{}
	for r, d := range spent {
		if percent := int(d * 100 / whole); percent > 0 {
			out[r] = percent
		}
	}
	return out
}

// period is what requirements were over some days.
type period struct {
	lines map[string][]Segment
	known map[string]map[Result]int
}

func (s *Service) period(ctx context.Context, days int) (*period, error) {
	now := s.o.Now()
	from := now.Add(-time.Duration(days) * day)
	all, err := s.history(ctx, from)
	if err != nil {
		return nil, err
	}
	p := &period{map[string][]Segment{}, map[string]map[Result]int{}}
	for _, pred := range predicates {
		p.lines[pred.ID] = timeline(all[pred.ID], from, now)
	}
	return p, nil
}

// shares is how many percent of the period a requirement had each result.
func (p *period) shares(of []For) map[Result]int {
	if len(of) == 0 {
		return nil
	}
	key, lines := "", [][]Segment(nil)
	for _, e := range of {
		key, lines = key+" "+e.ID, append(lines, p.lines[e.ID])
	}
	if p.known[key] == nil {
		p.known[key] = shares(together(lines...))
	}
	return p.known[key]
}
