package console

import (
	"encoding/json/v2"
	"errors"
	"strconv"
	"strings"

	"github.com/countersign/countersign/client"
)

var eventPages = []page{
	{"/events", "events", "Log", "log", (*Console).showEvents},
	{"/events/{id}", "event", "Event", "log", (*Console).showEvent},
	{"/events/{id}/contents", "contents", "Contents", "log", (*Console).showContents},
}

var eventActions = []action{
	{"/events", "events", (*Console).saveSearch},
	{"/events/searches/{name}/forget", "events", (*Console).forgetSearch},
}

// eventsPage is a search of the log.
type eventsPage struct {
	Q      string
	Events []call
	Next   string
	Behind int64
	Saved  []client.SavedSearch
	Status client.SealStatus
	Bad    string // what is wrong with the query
}

func (d eventsPage) table() ([]string, [][]string) {
	var rows [][]string
	for _, e := range d.Events {
		rows = append(rows, []string{exact(e.Time), e.ID, e.Type, e.Actor.Name, e.Agent, e.Connection, e.Tool, e.State, e.Object, e.Event.Reason, e.Why, e.Run, e.Call})
	}
	return []string{"time", "id", "type", "actor", "agent", "connection", "tool", "state", "object", "reason", "why", "run", "call"}, rows
}

func (c *Console) showEvents(v *visit) (any, error) {
	d := eventsPage{Q: strings.TrimSpace(v.Query("q"))}
	found, err := v.events(d.Q)
	if e, ok := errors.AsType[*client.Error](err); ok && e.Status < 500 && e.Status != 401 {
		d.Bad, err = e.Detail, nil
	}
	if err != nil {
		return nil, err
	}
	d.Next, d.Behind = found.Next, found.Behind
	for _, ev := range found.Events {
		d.Events = append(d.Events, callOf(ev))
	}
	if d.Saved, err = v.API.SavedSearches(v.ctx()); err != nil {
		return nil, err
	}
	d.Status, err = v.API.SealStatus(v.ctx())
	return d, err
}

// events searches the log for a page of the table, or for what is exported.
func (v *visit) events(q string) (client.Page, error) {
	if v.Query("as") == "" {
		return v.API.SearchLog(v.ctx(), q, v.Query("after"), perPage, v.Query("oldest") != "")
	}
	var all client.Page
	for cursor := ""; len(all.Events) < mostExported; {
		page, err := v.API.SearchLog(v.ctx(), q, cursor, 1000, v.Query("oldest") != "")
		if err != nil {
			return page, err
		}
		all.Events = append(all.Events, page.Events...)
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	return all, nil
}

func (c *Console) saveSearch(v *visit) (done, error) {
	s, err := v.API.SaveSearch(v.ctx(), v.Form.Get("name"), v.Form.Get("q"), v.Form.Get("shared") != "")
	return done{to: string(queryOf("/events", "q", s.Query)), said: "The search is saved as " + s.Name + "."}, err
}

func (c *Console) forgetSearch(v *visit) (done, error) {
	err := v.API.DeleteSearch(v.ctx(), v.Request.PathValue("name"))
	return done{to: "/events", said: "The search is forgotten."}, err
}

// proven is a record of the log with what a browser needs to verify it.
type proven struct {
	Leaf   string         // base64: the exact bytes
	Index  string         // in the tree, empty if it is not sealed yet
	Unsaid string         // why there is no proof
	Keys   client.LogKeys // the log's
}

// prove asks for the proof of an event.
func (v *visit) prove(id, record string) (p proven, err error) {
	p.Leaf = record
	if p.Keys, err = v.API.LogKeys(v.ctx()); err != nil {
		return p, err
	}
	proof, err := v.API.Proof(v.ctx(), id)
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status < 500 {
		p.Unsaid, err = refused.Detail, nil
	}
	if err == nil && proof != nil {
		p.Index = indexOf(proof)
	}
	return p, err
}

// proven is prove for an event that is known by its identifier.
func (v *visit) proven(id string) (proven, error) {
	e, err := v.API.BareEntry(v.ctx(), id)
	if err != nil {
		return proven{}, err
	}
	return v.prove(id, e.Record)
}

// Rotations are the statements that lead from the log's first key to the present one.
func (p proven) Rotations() string {
	b, err := json.Marshal(p.Keys.Rotations)
	if err != nil {
		return "[]"
	}
	return string(b)
}

// eventPage is one event with its proof.
type eventPage struct {
	client.Entry
	proven
	Call   call
	Pretty string
	Reveal bool
}

// Undoable reports whether the event is of a call that went out and may have
// changed something.
func (d eventPage) Undoable() bool {
	e := d.Event
	return e.Call != "" && e.Effect != "" && e.Effect != "read" && (e.Type == "call.intent" || e.Type == "call.outcome")
}

func (c *Console) showEvent(v *visit) (any, error) {
	id := v.Request.PathValue("id")
	e, err := v.API.BareEntry(v.ctx(), id)
	if err != nil {
		return nil, err
	}
	d := eventPage{Entry: e, Call: callOf(e.Event), Reveal: len(e.Event.Payloads) > 0 && (v.May("inspect") || e.Event.Owner == v.Me.Name)}
	b, err := json.Marshal(e.Event)
	if err != nil {
		return nil, err
	}
	d.Pretty = string(b)
	v.Title = e.Event.Type
	d.proven, err = v.prove(id, e.Record)
	return d, err
}

// indexOf reads a record's index in the tree from its proof (C2SP tlog-proof).
func indexOf(proof []byte) string {
	var f struct {
		Proof string `json:"proof"`
	}
	if json.Unmarshal(proof, &f) != nil {
		return ""
	}
	for line := range strings.Lines(f.Proof) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "index "); ok {
			if _, err := strconv.ParseInt(n, 10, 64); err == nil {
				return n
			}
		}
	}
	return ""
}

// showContents reveals what stands beside an event. The API records that it did.
func (c *Console) showContents(v *visit) (any, error) {
	return v.API.LogEntry(v.ctx(), v.Request.PathValue("id"))
}
