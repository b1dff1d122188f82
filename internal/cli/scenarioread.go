package cli

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/example"
)

// What the two colleagues ask. One of them wants the answer mailed.
const (
	question   = "What are the rules for travel, salaries and visitors?"
	colleague  = "sam@hanse-trade.example"
	mailPlease = " Mail the answer to " + colleague + "."
)

// reading is what somebody got out of the handbook.
type reading struct {
	user      string
	documents []string // ids
	hidden    int      // what policy kept from the assistant, whoever asks
}

// reading reads from the log what a run was given. Outcomes come to the log
// after the agent has its answer, so it waits for them.
func (s *showcase) reading(ctx context.Context, user, run string) (reading, error) {
	const within = 30 * time.Second
	for deadline := time.Now().Add(within); ; {
		entries, _, err := s.c.Run(ctx, run)
		if err != nil {
			return reading{}, err
		}
		if r, ok := readOf(user, entries); ok {
			return r, nil
		}
		if time.Now().After(deadline) {
			return reading{}, fmt.Errorf("the log says nothing of what the search of %s's run %s found", user, run)
		}
		select {
		case <-ctx.Done():
			return reading{}, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// readOf gathers what the searches of a run found; ok is false while an outcome
// is missing.
func readOf(user string, entries []client.Entry) (r reading, ok bool) {
	r.user = user
	searches := map[string]bool{}
	for _, e := range entries {
		switch ev := e.Event; {
		case ev.Type == "call.intent" && ev.Connection == example.Handbook && ev.Tool == "search":
			searches[ev.Call] = true
		case ev.Type == "call.outcome" && searches[ev.Call]:
			var found struct {
				Documents []struct {
					ID string `json:"id"`
				} `json:"documents"`
				Hidden int `json:"hidden"`
			}
			if json.Unmarshal(ev.Detail, &found) != nil {
				continue
			}
			delete(searches, ev.Call)
			ok = true
			r.hidden += found.Hidden
			for _, d := range found.Documents {
				r.documents = append(r.documents, d.ID)
			}
		}
	}
	slices.Sort(r.documents)
	return r, ok && len(searches) == 0
}

// missing are the documents that another was given to the same question.
func (r reading) missing(others []reading) []string {
	var out []string
	for _, o := range others {
		for _, d := range o.documents {
			if !slices.Contains(r.documents, d) && !slices.Contains(out, d) {
				out = append(out, d)
			}
		}
	}
	return out
}

// private is the document that finance alone may read.
const private = "salaries.md"

// leaked is an error if somebody was given a document that is not for them, or
// if the handbook gave nothing, so that nothing was shown.
func (v verdict) leaked() error {
	for _, r := range v.answers {
		switch {
		case r.user == "ben" && slices.Contains(r.documents, private):
			return fmt.Errorf("ben was given %s, which only finance may read", private)
		case r.user == "fiona" && v.scripted && !slices.Contains(r.documents, private):
			return fmt.Errorf("fiona was not given %s, which she may read", private)
		}
	}
	if len(v.answers) == 0 {
		return errors.New("nobody asked the handbook, so nothing was shown")
	}
	return nil
}

// printAnswers says what each got out of the handbook, and what was kept back.
func (s *showcase) printAnswers(v verdict) {
	fmt.Fprintln(s.stdout, "\n"+s.paint(s.stdout, bold, "What the handbook gave to the same question"))
	for _, r := range v.answers {
		fmt.Fprintf(s.stdout, "  %-6s %s\n", r.user, inert(strings.Join(r.documents, ", "), 0))
		if kept := r.missing(v.answers); len(kept) > 0 {
			fmt.Fprintf(s.stdout, "         %s %s: not theirs to read, and nothing told them of it\n", s.paint(s.stdout, green, "withheld"), inert(strings.Join(kept, ", "), 0))
		}
		if r.hidden > 0 {
			fmt.Fprintf(s.stdout, "         %s %d more that they may read, but the assistant may not (policy nothing-secret-in-staging)\n", s.paint(s.stdout, green, "hidden"), r.hidden)
		}
	}
}
