package approvals

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/words"
)

// Stats is the price of governance: what it costs that calls wait for people,
// and where it may be paid for nothing.
type Stats struct {
	Since    time.Time     `json:"since"`
	Until    time.Time     `json:"until"`
	Policies []PolicyStats `json:"policies"`
	People   []PersonStats `json:"people"`
	Cut      bool          `json:"cut,omitempty" doc:"there were more requests than were counted, the newest"`
}

// PolicyStats is what one policy held.
type PolicyStats struct {
	ID       string  `json:"id" doc:"of the policy"`
	Held     int     `json:"held"`
	Pending  int     `json:"pending"`
	Approved int     `json:"approved"`
	Denied   int     `json:"denied"`
	Lapsed   int     `json:"lapsed" doc:"expired, void or withdrawn before anybody decided"`
	Share    float64 `json:"approved_share" doc:"of those decided, from 0 to 1"`
	Median   float64 `json:"median_wait_seconds" doc:"until people decided"`
	P95      float64 `json:"p95_wait_seconds"`
	// Agents is how long agents' work stood still in all: until people decided,
	// or until it was clear that nobody would.
	Agents float64 `json:"agent_seconds"`
	Narrow *Narrow `json:"narrow,omitempty" doc:"people said yes so often that the policy may hold too much"`
}

// Narrow suggests that a policy holds less.
type Narrow struct {
	Approved int     `json:"approved" doc:"so many requests in a row, the newest, were all approved"`
	Ranges   []Range `json:"ranges" doc:"what their arguments were"`
	Advice   string  `json:"advice"`
}

// Range is what one argument was in the requests of a policy.
type Range struct {
	Tool   string   `json:"tool" doc:"connection/tool"`
	Name   string   `json:"name"`
	Min    string   `json:"min,omitempty" doc:"of numbers"`
	Max    string   `json:"max,omitempty"`
	Values []string `json:"values,omitempty" doc:"of others, if they were few"`
	Many   int      `json:"many,omitempty" doc:"of others: how many different ones"`
}

// PersonStats is how one person decides.
type PersonStats struct {
	ID      string  `json:"id"`
	Name    string  `json:"name"`
	Decided int     `json:"decided"`
	Yes     int     `json:"approved"`
	Quick   int     `json:"quick" doc:"within two seconds of the request, or of their decision before"`
	Median  float64 `json:"median_wait_seconds"`
	Bulk    bool    `json:"bulk" doc:"they answer so many so fast that they can hardly have looked"`
}

// What makes a policy one to be narrowed, and answers answers in bulk.
const (
	narrowAfter  = 50
	quick        = 2 * time.Second
	bulkFrom     = 5
	maxCounted   = 20_000 // requests
	maxDifferent = 5      // values that are listed
)

// Stats counts the requests made since a time.
func (s *Service) Stats(ctx context.Context, since time.Time) (Stats, error) {
	out := Stats{Since: since.UTC(), Until: s.o.Now().UTC(), Policies: []PolicyStats{}, People: []PersonStats{}}
	found, err := read(ctx, s.db, ` WHERE created >= $1 ORDER BY id DESC LIMIT $2`, storage.Micros(since), maxCounted+1)
	if err != nil {
		return out, err
	}
	if out.Cut = len(found) > maxCounted; out.Cut {
		found = found[:maxCounted]
	}
	byPolicy := map[string][]*Request{}
	for i := range found {
		for _, p := range s.policies(&found[i]) {
			byPolicy[p] = append(byPolicy[p], &found[i])
		}
	}
	for _, p := range slices.Sorted(maps.Keys(byPolicy)) {
		ps, err := s.policyStats(ctx, p, byPolicy[p], out.Until)
		if err != nil {
			return out, err
		}
		out.Policies = append(out.Policies, ps)
	}
	out.People, err = s.peopleStats(ctx, since)
	return out, err
}

// approved reports whether people said yes to a request, whatever became of it.
func (r *Request) approved() bool {
	return !r.Decided.IsZero() && r.State != Denied && r.State != Pending
}

func (s *Service) policyStats(ctx context.Context, policy string, list []*Request, now time.Time) (PolicyStats, error) {
	ps := PolicyStats{ID: policy, Held: len(list)}
	var waits []time.Duration
	var agents time.Duration
	row, over := []*Request{}, false // the newest decided ones that were all approved
	for _, r := range list {         // newest first
		end := r.Decided
		switch {
		case r.State == Pending:
			ps.Pending++
			end = now
		case r.approved():
			ps.Approved++
		case r.State == Denied:
			ps.Denied++
		default:
			ps.Lapsed++
			end = r.Settled
		}
		agents += max(0, end.Sub(r.Created))
		if r.Decided.IsZero() {
			continue
		}
		waits = append(waits, r.Decided.Sub(r.Created))
		over = over || !r.approved()
		if !over && len(row) < narrowAfter {
			row = append(row, r)
		}
	}
	if n := ps.Approved + ps.Denied; n > 0 {
		ps.Share = float64(ps.Approved) / float64(n)
	}
	ps.Median, ps.P95, ps.Agents = quantile(waits, 0.5), quantile(waits, 0.95), agents.Seconds()
	if len(row) < narrowAfter {
		return ps, nil
	}
	ranges, err := s.ranges(ctx, row)
	ps.Narrow = &Narrow{Approved: len(row), Ranges: ranges,
		Advice: "people approved the last " + strconv.Itoa(len(row)) + " of these: let what lies within these ranges pass, and hold what does not"}
	return ps, err
}

// quantile returns the q-quantile by the nearest rank, in seconds.
func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[max(0, int(math.Ceil(q*float64(len(d))))-1)].Seconds()
}

// ranges returns what the arguments of requests were.
func (s *Service) ranges(ctx context.Context, list []*Request) ([]Range, error) {
	requests := make([]Request, len(list))
	for i, r := range list {
		requests[i] = *r
	}
	args, err := s.arguments(ctx, requests)
	if err != nil {
		return nil, err
	}
	type key struct{ tool, name string }
	values := map[key][]words.Argument{}
	for _, r := range requests {
		for _, a := range words.Flatten(args[r.Event].body) {
			k := key{r.Binding.Connection + "/" + r.Binding.Tool, a.Name}
			values[k] = append(values[k], a)
		}
	}
	out := []Range{}
	for k, list := range values {
		out = append(out, rangeOf(k.tool, k.name, list))
	}
	slices.SortFunc(out, func(a, b Range) int { return cmp.Or(strings.Compare(a.Tool, b.Tool), strings.Compare(a.Name, b.Name)) })
	return out, nil
}

func rangeOf(tool, name string, list []words.Argument) Range {
	r := Range{Tool: tool, Name: name}
	lo, hi, numbers := math.Inf(1), math.Inf(-1), true
	different := map[string]bool{}
	for _, a := range list {
		different[words.Short(a.Value)] = true
		n, err := strconv.ParseFloat(a.Value, 64)
		if numbers = numbers && err == nil && a.Number(); !numbers {
			continue
		}
		if n < lo {
			lo, r.Min = n, a.Value
		}
		if n > hi {
			hi, r.Max = n, a.Value
		}
	}
	if numbers {
		return r
	}
	r.Min, r.Max, r.Many = "", "", len(different)
	if len(different) <= maxDifferent {
		r.Values = slices.Sorted(maps.Keys(different))
	}
	return r
}

// peopleStats returns how each person decides, those who do it in bulk first.
func (s *Service) peopleStats(ctx context.Context, since time.Time) ([]PersonStats, error) {
	rows, err := s.db.Query(ctx, `SELECT d.person, d.name, d.verdict, d.at, a.created FROM approval_decisions d JOIN approvals a ON a.id = d.approval
		WHERE a.created >= $1 ORDER BY d.at DESC LIMIT $2`, storage.Micros(since), maxCounted)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	people, waits, later := map[string]*PersonStats{}, map[string][]time.Duration{}, map[string]time.Time{}
	for rows.Next() {
		var person, name string
		var verdict Verdict
		var at, created int64
		if err := rows.Scan(&person, &name, &verdict, &at, &created); err != nil {
			return nil, unavailable(err)
		}
		p := people[person]
		if p == nil {
			p = &PersonStats{ID: person, Name: name}
			people[person] = p
		}
		p.Decided++
		if verdict == Approve {
			p.Yes++
		}
		when, wait := storage.Time(at), storage.Time(at).Sub(storage.Time(created))
		waits[person] = append(waits[person], wait)
		if next, ok := later[person]; wait < quick || ok && next.Sub(when) < quick {
			p.Quick++
		}
		later[person] = when
	}
	out := []PersonStats{}
	for id, p := range people {
		p.Median, p.Bulk = quantile(waits[id], 0.5), p.Quick >= bulkFrom
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b PersonStats) int { return cmp.Or(b.Quick-a.Quick, strings.Compare(a.Name, b.Name)) })
	return out, unavailable(rows.Err())
}
