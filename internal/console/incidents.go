package console

import (
	"cmp"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

var incidentPages = []page{
	{"/incidents", "incidents", "Incidents", "findings", (*Console).showIncidents},
	{"/incidents/new", "newincident", "A new incident", "findings", (*Console).showNewIncident},
	{"/incidents/{id}", "incident", "Incident", "findings", (*Console).showIncident},
}

var incidentActions = []action{
	{"/incidents", "newincident", (*Console).openIncident},
	{"/incidents/{id}/notes", "incident", (*Console).noteIncident},
	{"/incidents/{id}/close", "incident", (*Console).closeIncident},
	{"/incidents/{id}/export", "incident", (*Console).exportIncident},
}

type incidentsPage struct {
	*listing[client.Incident]
	State string
	Boxes []box
	Full  bool
}

// mostIncidents is how many incidents are looked at.
const mostIncidents = 500

var incidentColumns = []column[client.Incident]{
	{Key: "opened", Title: "Opened", Value: func(i client.Incident) string { return exact(i.Opened) }, Less: func(a, b client.Incident) int { return b.Opened.Compare(a.Opened) }},
	{Key: "severity", Title: "Severity", Value: func(i client.Incident) string { return i.Severity }, Less: func(a, b client.Incident) int { return severities[a.Severity] - severities[b.Severity] }},
	{Key: "title", Title: "What", Value: func(i client.Incident) string { return i.Title }},
	{Key: "state", Title: "State", Value: func(i client.Incident) string { return i.State }},
	{Key: "agents", Title: "Agents", Value: func(i client.Incident) string { return strings.Join(i.Scope.Agents, " ") }},
	{Key: "by", Title: "By", Value: func(i client.Incident) string { return i.OpenedBy }},
	{Key: "id", Title: "Incident", Value: func(i client.Incident) string { return i.ID }},
}

func (c *Console) showIncidents(v *visit) (any, error) {
	state := v.Query("state")
	if state != "closed" && state != "all" {
		state = "open"
	}
	asked := state
	if asked == "all" {
		asked = ""
	}
	all, err := v.API.Incidents(v.ctx(), asked, "", mostIncidents)
	d := incidentsPage{listing: arrange(v, all, func(i client.Incident) string { return i.ID }, incidentColumns), State: state, Full: len(all) == mostIncidents}
	for _, b := range []box{{"open", "Open", -1, false}, {"closed", "Closed", -1, false}, {"all", "All", -1, false}} {
		b.Current = b.Name == state
		d.Boxes = append(d.Boxes, b)
	}
	return d, err
}

// newIncidentPage says where an incident begins: an agent, a run or a finding.
type newIncidentPage struct {
	Agent, Run, Finding string
	Agents              []client.Agent
}

func (c *Console) showNewIncident(v *visit) (any, error) {
	agents, err := v.API.Agents(v.ctx())
	return newIncidentPage{v.Field("agent", v.Query("agent")), v.Field("run", v.Query("run")), v.Field("finding", v.Query("finding")), agents}, err
}

func (c *Console) openIncident(v *visit) (done, error) {
	f := v.Form
	start := client.IncidentStart{Finding: f.Get("finding"), Agent: f.Get("agent"), Run: f.Get("run"), Title: strings.TrimSpace(f.Get("title")), Severity: f.Get("severity")}
	if d, err := time.ParseDuration(cmp.Or(f.Get("since"), "0s")); err == nil && d > 0 && start.Agent != "" {
		start.Since = v.Now().Add(-d)
	}
	i, err := v.reason().OpenIncident(v.ctx(), start)
	return done{to: string(pathOf("/incidents", i.ID)), said: "What belongs to it is gathered from the log, now and while it is open."}, err
}

// incidentPage is an incident with all that belongs to it.
type incidentPage struct {
	client.IncidentView
	Timeline []client.IncidentEntry // the newest first, as many as are shown
	Left     int                    // that are not shown
}

// mostEntries is how many events of an incident's timeline are shown.
const mostEntries = 200

func (c *Console) showIncident(v *visit) (any, error) {
	i, err := v.API.Incident(v.ctx(), v.Request.PathValue("id"), false)
	if err != nil {
		return nil, err
	}
	v.Title = i.Title
	d := incidentPage{IncidentView: i, Timeline: i.Account.Timeline}
	if n := len(d.Timeline); n > mostEntries {
		d.Timeline, d.Left = d.Timeline[n-mostEntries:], n-mostEntries
	}
	return d, nil
}

func (c *Console) noteIncident(v *visit) (done, error) {
	id := v.Request.PathValue("id")
	_, err := v.API.NoteIncident(v.ctx(), id, v.Form.Get("text"))
	return done{to: string(pathOf("/incidents", id)), said: "The note is kept, and in the log."}, err
}

func (c *Console) closeIncident(v *visit) (done, error) {
	i, err := v.reason().CloseIncident(v.ctx(), v.Request.PathValue("id"))
	return done{to: string(pathOf("/incidents", i.ID)), said: "The incident is closed."}, err
}

func (c *Console) exportIncident(v *visit) (done, error) {
	body, err := v.reason().ExportIncident(v.ctx(), v.Request.PathValue("id"), v.Form.Get("contents") != "")
	return done{file: "incident.tar", body: body}, err
}
