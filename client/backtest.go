package client

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Trial is a change of policies and grants that is tried against recorded calls.
type Trial struct {
	Files  []NamedText  `json:"files,omitempty"`  // in place of the saved files of these names; an empty text leaves one out
	Grants []TrialGrant `json:"grants,omitempty"` // in place of the saved grants of these names
	Revoke []string     `json:"revoke,omitempty"` // grants left out
	Since  time.Time    `json:"since,omitzero"`   // calls from then on
	Until  time.Time    `json:"until,omitzero"`   // calls before then
	Agent  string       `json:"agent,omitempty"`  // of this agent alone
	Most   int64        `json:"-"`                // calls looked at, the newest; 0: all
}

// TrialGrant is a grant of a trial.
type TrialGrant struct {
	Name string `json:"name"`
	GrantSpec
}

// Backtest is what a trial would have changed about recorded calls. The rules
// in force and those of the trial decide each call anew.
type Backtest struct {
	Version  string        `json:"version"`
	Calls    int64         `json:"calls"`    // looked at
	Affected int64         `json:"affected"` // that a changed rule is about
	Unseen   int64         `json:"unseen"`   // affected, but their arguments are not to be had
	Gone     int64         `json:"gone"`     // of tools that are not registered any more
	Assumed  int64         `json:"assumed"`  // affected, and a rule asks what is not recorded
	Changes  []PolicyShift `json:"changes"`  // the most frequent first
	Oldest   time.Time     `json:"oldest,omitzero"`
	Next     string        `json:"next,omitempty"` // not empty: there are older calls that were not looked at
}

// PolicyShift is calls of one agent and tool that come out differently, and in
// the same way.
type PolicyShift struct {
	Agent  string    `json:"agent"` // empty: of many agents and tools
	Tool   string    `json:"tool"`  // connection/tool
	From   string    `json:"from"`  // allow, deny, hold
	To     string    `json:"to"`
	By     []string  `json:"by,omitempty"` // what determines it in the trial; none: nothing allows it
	Count  int64     `json:"count"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Events []string  `json:"events"` // the newest of them, at most five
}

// Kind says in words what becomes of the calls: "newly refused", "newly held",
// "newly allowed", "no longer held".
func (s PolicyShift) Kind() string {
	switch {
	case s.To == "deny":
		return "newly refused"
	case s.To == "hold":
		return "newly held"
	case s.From == "hold":
		return "no longer held"
	}
	return "newly allowed"
}

// partOfBacktest is how many calls the server looks at between two reports.
const partOfBacktest = 20_000

// Backtest tries a change against recorded calls, the newest first. So far, if
// not nil, is told how many calls were looked at.
func (c *Client) Backtest(ctx context.Context, t Trial, soFar func(calls int64)) (Backtest, error) {
	type part struct {
		Trial
		After   string `json:"after,omitempty"`
		Version string `json:"version,omitempty"`
		Most    int64  `json:"most,omitempty"`
	}
	all := Backtest{}
	for p := (part{Trial: t}); ; {
		p.Most = partOfBacktest
		if t.Most > 0 {
			p.Most = min(p.Most, t.Most-all.Calls)
		}
		b, err := send[Backtest](ctx, c, http.MethodPost, v1+"/policy/backtest", p)
		if err != nil {
			return Backtest{}, err
		}
		all.add(b)
		if soFar != nil {
			soFar(all.Calls)
		}
		if b.Next == "" || t.Most > 0 && all.Calls >= t.Most {
			return all, nil
		}
		p.After, p.Version = b.Next, b.Version
	}
}

// add counts a later part, of older calls.
func (b *Backtest) add(part Backtest) {
	b.Version, b.Next = part.Version, part.Next
	b.Calls, b.Affected, b.Unseen, b.Gone, b.Assumed = b.Calls+part.Calls, b.Affected+part.Affected, b.Unseen+part.Unseen, b.Gone+part.Gone, b.Assumed+part.Assumed
	if !part.Oldest.IsZero() {
		b.Oldest = part.Oldest
	}
	if b.Changes == nil {
		b.Changes = []PolicyShift{}
	}
	for _, s := range part.Changes {
		at := slices.IndexFunc(b.Changes, func(x PolicyShift) bool {
			return x.Agent == s.Agent && x.Tool == s.Tool && x.From == s.From && x.To == s.To && slices.Equal(x.By, s.By)
		})
		if at < 0 {
			b.Changes = append(b.Changes, s)
			continue
		}
		x := &b.Changes[at]
		x.Count, x.First = x.Count+s.Count, s.First
		x.Events = append(x.Events, s.Events...)
		x.Events = x.Events[:min(len(x.Events), 5)]
	}
	slices.SortStableFunc(b.Changes, func(x, y PolicyShift) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), strings.Compare(x.Agent, y.Agent), strings.Compare(x.Tool, y.Tool))
	})
}

// Notes says what the figures do not cover.
func (b Backtest) Notes() []string {
	var notes []string
	note := func(n int64, format string) {
		if n > 0 {
			notes = append(notes, fmt.Sprintf(format, n))
		}
	}
	note(b.Unseen, "%d calls could not be told: a rule asks for their arguments, which were erased, cut or never kept")
	note(b.Gone, "%d calls were of tools that are not registered any more")
	note(b.Assumed, "%d calls rest on what is not recorded (the run's age and calls, the kind of credential, where values came from, budgets of which no policy asked then): it was taken as a fresh run with nothing untrusted")
	if b.Next != "" {
		notes = append(notes, "older calls were not looked at")
	}
	return notes
}
