package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/client"
)

// How much a trace of a business object reads: events that touch it, and runs
// these stand in.
const (
	maxTouching = 10000
	maxRuns     = 200
)

// touchQuery is the search for the calls that touch a business object, or, for
// a plain text, for those whose arguments or answers hold its words.
func touchQuery(object, text string) (string, error) {
	field, value := "touches:", object
	if object == "" {
		field, value = "", text
	} else if kind, id, ok := strings.Cut(object, "/"); !ok || kind == "" || id == "" {
		return "", fmt.Errorf("--object is TYPE/ID, such as invoice/4711; for a text that stands anywhere in a call use --touching")
	}
	if strings.ContainsAny(value, "\"\\") {
		return "", fmt.Errorf("%q cannot be looked for: leave out quotes and backslashes", value)
	}
	return field + `"` + value + `" type:call.*`, nil
}

// touching returns, run by run and the oldest first, the calls that a search
// selects. complete is false if there are more than it reads.
func touching(ctx context.Context, c *client.Client, query string) (traces []*trace, complete bool, err error) {
	calls, runs, complete, err := touchedRuns(ctx, c, query)
	if err != nil {
		return nil, false, err
	}
	for _, run := range runs {
		entries, _, err := c.Run(ctx, run)
		if err != nil {
			return nil, false, err
		}
		if t := traceOf(run, entries); t.only(calls) > 0 {
			traces = append(traces, t)
		}
	}
	slices.SortStableFunc(traces, func(x, y *trace) int { return x.Started.Compare(y.Started) })
	return traces, complete, nil
}

// touchedRuns returns the calls and events that a search selects, and their runs.
func touchedRuns(ctx context.Context, c *client.Client, query string) (calls map[string]bool, runs []string, complete bool, err error) {
	calls = map[string]bool{}
	cursor := ""
	for n := 0; n < maxTouching; {
		page, err := c.SearchLog(ctx, query, cursor, 1000, false)
		if err != nil {
			return nil, nil, false, err
		}
		for _, ev := range page.Events {
			if !slices.Contains(runs, ev.Run) && ev.Run != "" {
				if len(runs) == maxRuns {
					return calls, runs, false, nil
				}
				runs = append(runs, ev.Run)
			}
			calls[ev.ID] = true
			if ev.Call != "" {
				calls[ev.Call] = true
			}
		}
		if n += len(page.Events); page.Next == "" {
			return calls, runs, true, nil
		}
		cursor = page.Next
	}
	return calls, runs, false, nil
}

// only leaves the steps of t that are among calls, by call or event, under the
// model answers they followed from, and returns how many these are.
func (t *trace) only(calls map[string]bool) int {
	t.Calls, t.Refused, t.Protocol, t.Other = 0, 0, nil, nil
	var keep func(steps []*step) []*step
	keep = func(steps []*step) []*step {
		kept := []*step{}
		for _, s := range steps {
			s.Steps = keep(s.Steps)
			ours := calls[s.ID] || calls[s.Event]
			if ours {
				t.Calls++
				if s.refused() {
					t.Refused++
				}
			}
			if ours || len(s.Steps) > 0 {
				kept = append(kept, s)
			}
		}
		return kept
	}
	t.Steps = keep(t.Steps)
	return t.Calls
}
