package console

import (
	"encoding/json/v2"
	"slices"

	"github.com/countersign/countersign/client"
)

var nowPages = []page{{"/{$}", "now", "Now", "now", (*Console).showNow}}

// nowPage is what the company's AI does, and what needs the person.
type nowPage struct {
	Waiting  []client.Approval // that this person may decide
	Others   int               // that wait for other people
	Findings []client.Finding
	Calls    []call
	Filter   string
	Stages   []stage
	Locks    []client.Lock
	Agents   int
	Rate     client.Rate // of the last hour
}

type stage struct {
	Name    string
	Agents  int
	Stopped int
}

// call is one call in the stream, as its last event tells.
type call struct {
	client.Event
	State  string // allowed, denied, held, refused, or how it ended
	Why    string
	Micros int64 // of an ended one: from receipt to the answer's end
}

// minute is what the chart shows of one minute.
type minute struct {
	Unix    int64   `json:"t"`
	Calls   int64   `json:"calls"`
	Refused int64   `json:"refused"`
	Held    int64   `json:"held"`
	Added   float64 `json:"added"` // median milliseconds that deciding took
}

// inStream selects the events of the stream of calls.
const inStream = "type:call.intent,call.denied,call.held,call.refused,call.outcome,call.settled"

// mostCalls is how many calls the page shows.
const mostCalls = 40

func (c *Console) showNow(v *visit) (any, error) {
	d := nowPage{Filter: v.Query("q")}
	waiting, err := v.pending()
	if err != nil {
		return nil, err
	}
	for _, a := range waiting {
		if a.Mine {
			d.Waiting = append(d.Waiting, a)
		} else {
			d.Others++
		}
	}
	if d.Findings, err = v.API.Findings(v.ctx(), client.FindingQuery{Status: "open", Limit: 5}); err != nil {
		return nil, err
	}
	if d.Calls, err = v.calls(d.Filter); err != nil {
		return nil, err
	}
	if d.Locks, err = v.API.Locks(v.ctx(), false); err != nil {
		return nil, err
	}
	agents, err := v.API.Agents(v.ctx())
	if err != nil {
		return nil, err
	}
	d.Agents, d.Stages = len(agents), stages(agents)
	d.Rate, err = v.API.Rate(v.ctx(), 60)
	return d, err
}

func stages(agents []client.Agent) []stage {
	out := []stage{{Name: "production"}, {Name: "staging"}, {Name: "development"}}
	for _, a := range agents {
		i := slices.IndexFunc(out, func(s stage) bool { return s.Name == a.Stage })
		if i < 0 {
			continue
		}
		out[i].Agents++
		if a.Status != "active" {
			out[i].Stopped++
		}
	}
	return out
}

// calls are the newest calls that the filter selects, the newest first.
func (v *visit) calls(filter string) ([]call, error) {
	found, err := v.API.SearchLog(v.ctx(), inStream+" "+filter, "", 2*mostCalls, false)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var out []call
	for _, ev := range found.Events {
		if ev.Call != "" && seen[ev.Call] {
			continue // its outcome is newer than its intent
		}
		seen[ev.Call] = true
		if out = append(out, callOf(ev)); len(out) == mostCalls {
			break
		}
	}
	return out, nil
}

func callOf(ev client.Event) call {
	c := call{Event: ev}
	switch ev.Type {
	case "call.intent":
		c.State = "allowed"
	case "call.denied":
		c.State = "denied"
	case "call.held":
		c.State = "held"
	case "call.refused":
		c.State = "refused"
	}
	if ev.Decision != nil && c.State != "allowed" {
		c.Why = ev.Decision.Reason
	}
	if o := ev.Outcome; o != nil {
		c.State, c.Micros, c.Why = o.Status, o.Micros, o.Error
	}
	return c
}

// Refused is how many calls of the last hour were denied or refused.
func (d nowPage) Refused() int64 { return d.Rate.Total.Denied + d.Rate.Total.Refused }

// MinutesJSON is what the chart is drawn from.
func (d nowPage) MinutesJSON() string {
	out := make([]minute, len(d.Rate.Minutes))
	for i, m := range d.Rate.Minutes {
		out[i] = minute{m.At.Unix(), m.Calls(), m.Denied + m.Refused, m.Held, float64(m.Added) / 1000}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return "[]" // numbers: it does not happen
	}
	return string(b)
}
