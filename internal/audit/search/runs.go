package search

import (
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// ErrRunCursor says that a list of runs cannot be continued from where the caller says.
var ErrRunCursor = fault.New(fault.Invalid, "bad_cursor", "the cursor is not one of this list; give next of the page before, with the same order")

// Run is a run as its events count.
type Run struct {
	ID      string    `json:"id"`
	Agent   string    `json:"agent"`
	Owner   string    `json:"owner,omitempty"`
	Stage   string    `json:"stage,omitempty"`
	First   time.Time `json:"first" doc:"its first event"`
	Last    time.Time `json:"last" doc:"its last event"`
	Calls   int64     `json:"calls" doc:"allowed, denied, refused and held"`
	Refused int64     `json:"refused" doc:"denied by policy or refused"`
	Held    int64     `json:"held"`
	Failed  int64     `json:"failed" doc:"failed or broken upstream"`
	Labels  []string  `json:"labels,omitempty" doc:"what its content is or carries"`
	Ended   bool      `json:"ended,omitempty" doc:"somebody ended it"`
}

// RunQuery narrows and orders a list of runs.
type RunQuery struct {
	Agent  string // exactly; empty: any
	Label  string // exactly; empty: any
	With   string // "refused", "held" or "failed": only runs with such calls
	Text   string // part of the run's id, its agent, owner, stage or one of its labels, in any case
	Sort   string // "last", the default, "first" or "calls"
	Rising bool   // the smallest first rather than the largest
	After  string // next of the page before
	Limit  int    // 0 means 100; at most 1,000
}

// runSorts are the columns that have an index to sort by.
var runSorts = map[string]string{"": "last_at", "last": "last_at", "first": "first_at", "calls": "calls"}

// Runs returns a page of runs, and the cursor of the next one, empty on the
// last. Counts are exact for what is indexed.
func (s *Service) Runs(ctx context.Context, q RunQuery) (runs []Run, next string, err error) {
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	q.Limit = min(q.Limit, maxPage)
	c, by, err := q.conditions(s.db.Dialect() == storage.Postgres)
	if err != nil {
		return nil, "", err
	}
	order := Page{Oldest: q.Rising}.order()
	limit := c.arg(q.Limit + 1)
	rows, err := s.db.QueryPlanned(ctx, `SELECT run, agent, owner, stage, first_at, last_at, calls, refused, held, failed, ended FROM search_runs`+c.where()+
		` ORDER BY `+by+order+`, run`+order+` LIMIT `+limit, c.args...)
	if err != nil {
		return nil, "", storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		var r Run
		var first, last, ended int64
		if err := rows.Scan(&r.ID, &r.Agent, &r.Owner, &r.Stage, &first, &last, &r.Calls, &r.Refused, &r.Held, &r.Failed, &ended); err != nil {
			return nil, "", storage.ErrUnavailable.With(err)
		}
		r.First, r.Last, r.Ended = storage.Time(first), storage.Time(last), ended == 1
		runs = append(runs, r)
	}
	if err := rows.Err(); err != nil {
		return nil, "", storage.ErrUnavailable.With(err)
	}
	if len(runs) > q.Limit {
		runs = runs[:q.Limit]
		next = runs[q.Limit-1].cursor(by)
	}
	return runs, next, s.runLabels(ctx, runs)
}

// conditions translates q; by is the column of its order.
func (q RunQuery) conditions(pg bool) (c conditions, by string, err error) {
	c.pg = pg
	by, ok := runSorts[q.Sort]
	if !ok {
		return c, "", fault.New(fault.Invalid, "bad_order", "runs sort by last, first or calls")
	}
	if q.Agent != "" {
		c.add("agent = %s", q.Agent)
	}
	if q.Label != "" {
		c.add("run IN (SELECT run FROM search_run_labels WHERE label = %s)", q.Label)
	}
	switch q.With {
	case "":
	case refused, held, failed:
		c.sql = append(c.sql, q.With+" > 0")
	default:
		return c, "", fault.New(fault.Invalid, "bad_filter", "with is refused, held or failed")
	}
	for _, word := range strings.Fields(strings.ReplaceAll(q.Text, "\x00", "\uFFFD")) {
		like := c.arg("%" + escapeLike.Replace(strings.ToLower(word)) + "%")
		var any []string
		for _, column := range []string{"run", "agent", "owner", "stage"} {
			any = append(any, `lower(`+column+`) LIKE `+like+` ESCAPE '\'`)
		}
		any = append(any, `run IN (SELECT run FROM search_run_labels WHERE lower(label) LIKE `+like+` ESCAPE '\')`)
		c.sql = append(c.sql, "("+strings.Join(any, " OR ")+")")
	}
	if q.After != "" {
		value, run, err := openCursor(q.After)
		if err != nil {
			return c, "", err
		}
		than := "<"
		if q.Rising {
			than = ">"
		}
		c.sql = append(c.sql, "("+by+", run) "+than+" ("+c.arg(value)+", "+c.arg(run)+")")
	}
	return c, by, nil
}

// cursor is where the page after r begins, in the order of column by.
func (r Run) cursor(by string) string {
	value := map[string]int64{"last_at": storage.Micros(r.Last), "first_at": storage.Micros(r.First), "calls": r.Calls}[by]
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(value, 10) + "/" + r.ID))
}

func openCursor(cursor string) (value int64, run string, err error) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return 0, "", ErrRunCursor
	}
	number, run, ok := strings.Cut(string(b), "/")
	if value, err = strconv.ParseInt(number, 10, 64); err != nil || !ok || strings.ContainsRune(run, 0) {
		return 0, "", ErrRunCursor
	}
	return value, run, nil
}

// runLabels fills in the labels of runs.
func (s *Service) runLabels(ctx context.Context, runs []Run) error {
	if len(runs) == 0 {
		return nil
	}
	var c conditions
	marks, at := make([]string, len(runs)), map[string]*Run{}
	for i := range runs {
		marks[i], at[runs[i].ID] = c.arg(runs[i].ID), &runs[i]
	}
	rows, err := s.db.QueryPlanned(ctx, `SELECT run, label FROM search_run_labels WHERE run IN (`+strings.Join(marks, ", ")+`) ORDER BY run, label`, c.args...)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		var run, label string
		if err := rows.Scan(&run, &label); err != nil {
			return storage.ErrUnavailable.With(err)
		}
		at[run].Labels = append(at[run].Labels, label)
	}
	if err := rows.Err(); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	for i := range runs {
		slices.Sort(runs[i].Labels) // engines differ in their order of text
	}
	return nil
}

// RunPage is a page of runs.
type RunPage struct {
	Runs   []Run  `json:"runs"`
	Next   string `json:"next,omitempty" doc:"cursor of the next page; absent on the last"`
	Behind int64  `json:"behind,omitempty" doc:"events recorded but not yet counted"`
}

type runsRequest struct {
	Agent  string `query:"agent" maxLength:"256" doc:"only of this agent"`
	Label  string `query:"label" maxLength:"256" doc:"only with this label"`
	With   string `query:"with" enum:"refused,held,failed" doc:"only with such calls"`
	Text   string `query:"text" maxLength:"400" doc:"words that are part of the run's id, its agent, owner, stage or a label"`
	Sort   string `query:"sort" enum:"last,first,calls" doc:"last if empty: by the last event, the newest first"`
	Rising bool   `query:"rising" doc:"the smallest first"`
	Limit  int    `query:"limit" minimum:"0" maximum:"1000" doc:"100 if empty"`
	Cursor string `query:"cursor" maxLength:"400" doc:"next of the page before"`
}

func (s *Service) serveRuns(ctx context.Context, _ rest.Caller, r *runsRequest) (*RunPage, error) {
	if r.Cursor == "" {
		if err := s.Fresh(ctx); err != nil {
			return nil, err
		}
	}
	runs, next, err := s.Runs(ctx, RunQuery{Agent: r.Agent, Label: r.Label, With: r.With, Text: r.Text, Sort: r.Sort, Rising: r.Rising, Limit: r.Limit, After: r.Cursor})
	if err != nil {
		return nil, err
	}
	out := RunPage{Runs: runs, Next: next}
	if out.Runs == nil {
		out.Runs = []Run{}
	}
	out.Behind, err = s.Behind(ctx)
	return &out, err
}
