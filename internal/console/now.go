package console

import (
	"cmp"
	"encoding/json/v2"
	"slices"
	"time"

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
	Minutes  []minute
	Hour     totals
	Partial  bool // there were more events in the hour than are counted
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

// minute is what happened in one minute; totals what did in the hour.
type minute struct {
	Unix    int64   `json:"t"`
	Calls   int     `json:"calls"`
	Refused int     `json:"refused"`
	Added   float64 `json:"added"` // median milliseconds that deciding took
}

type totals struct{ Calls, Refused, Held, Failed int }

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
	return d, v.hour(&d)
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

// mostHour bounds the events that the hour's chart is made of.
const mostHour = 1000

// hour counts the calls of the last hour, minute by minute, of the newest
// events alone when there are very many.
func (v *visit) hour(d *nowPage) error {
	now := v.Now()
	found, err := v.API.SearchLog(v.ctx(), inStream+" since:60m", "", mostHour, false)
	if err != nil {
		return err
	}
	d.Partial = found.Next != ""
	start := now.Add(-time.Hour).Truncate(time.Minute)
	d.Minutes = make([]minute, 61)
	took := make([][]int64, 61)
	for i := range d.Minutes {
		d.Minutes[i].Unix = start.Add(time.Duration(i) * time.Minute).Unix()
	}
	for _, ev := range found.Events {
		i := int(ev.Time.Sub(start) / time.Minute)
		if i < 0 || i > 60 {
			continue
		}
		m := &d.Minutes[i]
		switch ev.Type {
		case "call.outcome":
			if ev.Outcome != nil && ev.Outcome.Status != "succeeded" {
				d.Hour.Failed++
			}
			continue
		case "call.settled":
			continue
		case "call.denied", "call.refused":
			m.Refused++
			d.Hour.Refused++
		case "call.held":
			d.Hour.Held++
		}
		m.Calls++
		d.Hour.Calls++
		if ev.Decision != nil {
			took[i] = append(took[i], ev.Decision.Micros)
		}
	}
	for i, t := range took {
		if len(t) > 0 {
			slices.SortFunc(t, cmp.Compare[int64])
			d.Minutes[i].Added = float64(t[len(t)/2]) / 1000
		}
	}
	return nil
}

// MinutesJSON is what the chart is drawn from.
func (d nowPage) MinutesJSON() string {
	b, err := json.Marshal(d.Minutes)
	if err != nil {
		return "[]" // numbers: it does not happen
	}
	return string(b)
}
