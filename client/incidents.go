package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// IncidentScope says which events belong to an incident.
type IncidentScope struct {
	Agents  []string  `json:"agents"`
	Runs    []string  `json:"runs"`
	Objects []string  `json:"objects"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until,omitzero"` // absent: as long as it is open
}

// Incident is one, without what is computed.
type Incident struct {
	ID         string        `json:"id"`
	Title      string        `json:"title"`
	Severity   string        `json:"severity"`
	State      string        `json:"state"` // open, closed
	Finding    string        `json:"finding,omitempty"`
	Scope      IncidentScope `json:"scope"`
	Opened     time.Time     `json:"opened"`
	OpenedBy   string        `json:"opened_by"`
	Reason     string        `json:"reason"`
	Closed     time.Time     `json:"closed,omitzero"`
	ClosedBy   string        `json:"closed_by,omitempty"`
	Conclusion string        `json:"conclusion,omitempty"`
}

// IncidentNote is a note that a person made.
type IncidentNote struct {
	ID   string    `json:"id"`
	At   time.Time `json:"at"`
	By   string    `json:"by"`
	Text string    `json:"text"`
}

// Tally counts calls.
type Tally struct {
	Calls   int `json:"calls"`
	Effects int `json:"effects"`
	Denied  int `json:"denied"`
	Held    int `json:"held"`
	Failed  int `json:"failed"`
	Unknown int `json:"unknown"`
}

// IncidentAccount is what the log says of an incident.
type IncidentAccount struct {
	From        time.Time            `json:"from,omitzero"`
	To          time.Time            `json:"to,omitzero"`
	Events      int                  `json:"events"`
	Agents      []IncidentAgent      `json:"agents"`
	Credentials []IncidentCredential `json:"credentials"`
	Runs        []IncidentRun        `json:"runs"`
	Touched     []TouchedObject      `json:"touched"`
	Effects     []IncidentEffect     `json:"effects"`
	Decisions   []IncidentDecision   `json:"decisions"`
	Approvals   []IncidentApproval   `json:"approvals"`
	Timeline    []IncidentEntry      `json:"timeline"`
}

// IncidentAgent is an agent and what it did.
type IncidentAgent struct {
	Name  string    `json:"name"`
	Owner string    `json:"owner,omitempty"`
	Stage string    `json:"stage,omitempty"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Tally
}

// IncidentCredential is a credential and from where it was used.
type IncidentCredential struct {
	ID      string    `json:"id"`
	Agent   string    `json:"agent,omitempty"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Remotes []string  `json:"remotes"`
	Clients []string  `json:"clients"`
	Tally
}

// IncidentRun is a run and what it did.
type IncidentRun struct {
	ID    string    `json:"id"`
	Agent string    `json:"agent"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Tally
}

// TouchedObject is a business object that calls touched.
type TouchedObject struct {
	Object  string   `json:"object"`
	Tools   []string `json:"tools"`
	Calls   int      `json:"calls"`
	Effects int      `json:"effects"`
}

// IncidentEffect is a call that may have changed something.
type IncidentEffect struct {
	ID      string    `json:"id"` // of the call
	At      time.Time `json:"at"`
	Agent   string    `json:"agent"`
	Run     string    `json:"run,omitempty"`
	Tool    string    `json:"tool"`
	Effect  string    `json:"effect"`
	Objects []string  `json:"objects"`
	Status  string    `json:"status"`
	Event   string    `json:"event"`
}

// IncidentDecision is how a call was decided.
type IncidentDecision struct {
	ID       string    `json:"id"` // of the event
	At       time.Time `json:"at"`
	Call     string    `json:"call,omitempty"`
	Agent    string    `json:"agent,omitempty"`
	Tool     string    `json:"tool,omitempty"`
	Effect   string    `json:"effect"`         // allow, deny, hold, refuse
	Code     string    `json:"code,omitempty"` // of the refusal, if it was recorded
	Policies []string  `json:"policies"`
	Grants   []string  `json:"grants"`
	Reason   string    `json:"reason,omitempty"`
}

// IncidentApproval is what people did with a held call.
type IncidentApproval struct {
	ID    string         `json:"id"`
	Call  string         `json:"call,omitempty"`
	Agent string         `json:"agent,omitempty"`
	Tool  string         `json:"tool,omitempty"`
	Steps []IncidentStep `json:"steps"`
}

// IncidentStep is one act of an approval.
type IncidentStep struct {
	At     time.Time `json:"at"`
	Event  string    `json:"event"`
	Act    string    `json:"act"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

// IncidentEntry is one event in the timeline.
type IncidentEntry struct {
	ID     string    `json:"id"` // of the event
	At     time.Time `json:"at"`
	Type   string    `json:"type"`
	By     string    `json:"by"`
	Agent  string    `json:"agent,omitempty"`
	Run    string    `json:"run,omitempty"`
	Call   string    `json:"call,omitempty"`
	Object string    `json:"object,omitempty"`
	What   string    `json:"what"`
}

// IncidentUndo is how a run would be undone.
type IncidentUndo struct {
	Run  string    `json:"run"`
	Plan *UndoPlan `json:"plan,omitempty"`
	Why  string    `json:"why,omitempty"` // there is no plan
}

// IncidentContent is what stands beside an event.
type IncidentContent struct {
	Event  string `json:"event"`
	Name   string `json:"name"`
	Text   string `json:"text,omitempty"`
	Base64 string `json:"base64,omitempty"`
	Erased bool   `json:"erased,omitempty"`
}

// IncidentView is an incident with all that belongs to it.
type IncidentView struct {
	Incident
	Notes        []IncidentNote    `json:"notes"`
	Account      IncidentAccount   `json:"account"`
	More         bool              `json:"more,omitempty"` // more than 5000 events belong to it
	Undo         []IncidentUndo    `json:"undo"`
	ReachThen    []ReachTree       `json:"reach_then"`
	ReachNow     []ReachTree       `json:"reach_now"`
	Contents     []IncidentContent `json:"contents,omitempty"`
	ContentsMore bool              `json:"contents_more,omitempty"`
}

// IncidentStart says where an incident begins: a Finding, an Agent or a Run.
type IncidentStart struct {
	Finding  string    `json:"finding,omitempty"`
	Agent    string    `json:"agent,omitempty"`
	Run      string    `json:"run,omitempty"`
	Title    string    `json:"title,omitempty"`
	Severity string    `json:"severity,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"`
}

// Incidents lists incidents, the latest first. An empty state is any; before is the
// id of the last incident of the page before; 0 is a limit of 100.
func (c *Client) Incidents(ctx context.Context, state, before string, limit int) ([]Incident, error) {
	query := url.Values{}
	for name, value := range map[string]string{"state": state, "before": before} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	return get[[]Incident](ctx, c, v1+"/incidents", query)
}

// OpenIncident opens an incident.
func (c *Client) OpenIncident(ctx context.Context, s IncidentStart) (Incident, error) {
	return send[Incident](ctx, c, http.MethodPost, v1+"/incidents", s)
}

// Incident returns an incident with all that belongs to it. With contents, what the
// caller may see of them is in it, and that they were seen is recorded.
func (c *Client) Incident(ctx context.Context, id string, contents bool) (IncidentView, error) {
	return get[IncidentView](ctx, c, v1+"/incidents"+segment(id), with(contents))
}

func with(contents bool) url.Values {
	if !contents {
		return nil
	}
	return url.Values{"contents": {"true"}}
}

// NoteIncident adds a note to an incident.
func (c *Client) NoteIncident(ctx context.Context, id, text string) (IncidentNote, error) {
	return send[IncidentNote](ctx, c, http.MethodPost, v1+"/incidents"+segment(id)+"/notes", map[string]string{"text": text})
}

// CloseIncident closes an incident.
func (c *Client) CloseIncident(ctx context.Context, id string) (Incident, error) {
	return send[Incident](ctx, c, http.MethodPost, v1+"/incidents"+segment(id)+"/close", struct{}{})
}

// ExportIncident returns an incident as one signed file. Close it.
func (c *Client) ExportIncident(ctx context.Context, id string, contents bool) (io.ReadCloser, error) {
	resp, err := c.send(ctx, http.MethodGet, v1+"/incidents"+segment(id)+"/export", with(contents), nil, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
