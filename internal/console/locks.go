package console

import (
	"fmt"
	"strings"

	"github.com/countersign/countersign/client"
)

var lockPages = []page{
	{"/locks", "locks", "Locks", "locks", (*Console).showLocks},
	{"/locks/{id}", "lock", "Lock", "locks", (*Console).showLock},
	{"/findings", "findings", "Findings", "findings", (*Console).showFindings},
	{"/findings/{id}", "finding", "Finding", "findings", (*Console).showFinding},
}

var lockActions = []action{
	{"/locks", "locks", (*Console).addLock},
	{"/locks/{id}/lift", "lock", (*Console).liftLock},
	{"/findings/{id}/close", "finding", (*Console).closeFinding},
}

type locksPage struct {
	*listing[client.Lock]
	Kinds []string
	Ended bool
}

var lockKinds = []string{"agent", "owner", "team", "tool", "connection", "credential", "run", "everything"}

var lockColumns = []column[client.Lock]{
	{Key: "placed", Title: "Placed", Value: func(l client.Lock) string { return exact(l.Placed) }, Less: func(a, b client.Lock) int { return b.Placed.Compare(a.Placed) }},
	{Key: "on", Title: "On", Value: func(l client.Lock) string { return l.On() }},
	{Key: "state", Title: "State", Value: lockState},
	{Key: "by", Title: "By", Value: func(l client.Lock) string { return l.By }},
	{Key: "reason", Title: "Why", Value: func(l client.Lock) string { return l.Reason }},
	{Key: "expires", Title: "Until", Value: func(l client.Lock) string { return exact(l.Expires) }, Less: func(a, b client.Lock) int { return a.Expires.Compare(b.Expires) }},
	{Key: "id", Title: "Lock", Value: func(l client.Lock) string { return l.ID }},
}

func lockState(l client.Lock) string {
	if l.Ended.IsZero() {
		return "in force"
	}
	return "ended"
}

func (c *Console) showLocks(v *visit) (any, error) {
	ended := v.Query("ended") != ""
	found, err := v.API.Locks(v.ctx(), ended)
	return locksPage{arrange(v, found, func(l client.Lock) string { return l.ID }, lockColumns), lockKinds, ended}, err
}

func (c *Console) addLock(v *visit) (done, error) {
	f := v.Form
	spec := client.LockSpec{Kind: f.Get("kind"), Name: strings.TrimSpace(f.Get("name")), ExpiresIn: f.Get("expires_in")}
	if spec.Kind == "everything" && f.Get("sure") == "" {
		return done{}, &client.Error{Status: 422, Detail: "A lock on everything stops every call of every agent. Tick that you mean it."}
	}
	l, err := v.reason().AddLock(v.ctx(), spec)
	if err != nil {
		return done{}, err
	}
	return done{to: string(pathOf("/locks", l.ID)), said: v.inForce(l)}, nil
}

type lockPage struct {
	client.LockState
	State string
}

func (c *Console) showLock(v *visit) (any, error) {
	l, err := v.API.Lock(v.ctx(), v.Request.PathValue("id"))
	v.Title = "Lock on " + l.On()
	return lockPage{l, lockState(l.Lock)}, err
}

func (c *Console) liftLock(v *visit) (done, error) {
	l, err := v.reason().LiftLock(v.ctx(), v.Request.PathValue("id"))
	return done{to: "/locks", said: "The lock on " + l.On() + " is lifted."}, err
}

type findingsPage struct {
	*listing[client.Finding]
	Status string
}

var severities = map[string]int{"critical": 0, "high": 1, "medium": 2, "low": 3, "info": 4}

var findingColumns = []column[client.Finding]{
	{Key: "opened", Title: "Since", Value: func(f client.Finding) string { return exact(f.Opened) }, Less: func(a, b client.Finding) int { return b.Opened.Compare(a.Opened) }},
	{Key: "severity", Title: "Severity", Value: func(f client.Finding) string { return f.Severity }, Less: func(a, b client.Finding) int { return severities[a.Severity] - severities[b.Severity] }},
	{Key: "title", Title: "What", Value: func(f client.Finding) string { return f.Title }},
	{Key: "object", Title: "About", Value: func(f client.Finding) string { return f.Object }},
	{Key: "rule", Title: "Rule", Value: func(f client.Finding) string { return f.Rule }},
	{Key: "status", Title: "Status", Value: func(f client.Finding) string { return f.Status }},
	{Key: "id", Title: "Finding", Value: func(f client.Finding) string { return f.ID }},
}

func (c *Console) showFindings(v *visit) (any, error) {
	status := "open"
	if v.Query("closed") != "" {
		status = "closed"
	}
	found, err := v.API.Findings(v.ctx(), client.FindingQuery{Status: status, Limit: mostFindings})
	return findingsPage{arrange(v, found, func(f client.Finding) string { return f.ID }, findingColumns), status}, err
}

func (c *Console) showFinding(v *visit) (any, error) {
	f, err := v.API.Finding(v.ctx(), v.Request.PathValue("id"))
	return f, err
}

func (c *Console) closeFinding(v *visit) (done, error) {
	f, err := v.reason().CloseFinding(v.ctx(), v.Request.PathValue("id"))
	return done{to: "/findings", said: fmt.Sprintf("Closed: %s", f.Title)}, err
}
