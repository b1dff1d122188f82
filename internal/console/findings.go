package console

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

var findingPages = []page{
	{"/findings", "findings", "Findings", "findings", (*Console).showFindings},
	{"/findings/{id}", "finding", "Finding", "findings", (*Console).showFinding},
	{"/mutes", "mutes", "Mutes", "findings", (*Console).showMutes},
}

var findingActions = []action{
	{"/findings/{id}/close", "finding", (*Console).closeFinding},
	{"/findings/{id}/mute", "finding", (*Console).muteFinding},
	{"/findings/{id}/unmute", "finding", (*Console).unmuteFinding},
	{"/findings/{id}/tune", "finding", (*Console).tuneFinding},
	{"/mutes", "mutes", (*Console).addMute},
	{"/mutes/{mute}/end", "mutes", (*Console).endMute},
}

type findingsPage struct {
	*listing[client.Finding]
	State string
	Boxes []box
	Full  bool // there are more than are shown
}

var severities = map[string]int{"critical": 0, "high": 1, "medium": 2, "low": 3, "info": 4}

var findingColumns = []column[client.Finding]{
	{Key: "seen", Title: "Last seen", Value: func(f client.Finding) string { return exact(f.LastSeen) }, Less: func(a, b client.Finding) int { return b.LastSeen.Compare(a.LastSeen) }},
	{Key: "severity", Title: "Severity", Value: func(f client.Finding) string { return f.Severity }, Less: func(a, b client.Finding) int { return severities[a.Severity] - severities[b.Severity] }},
	{Key: "title", Title: "What", Value: func(f client.Finding) string { return f.Title }},
	{Key: "object", Title: "About", Value: func(f client.Finding) string { return f.Object }},
	{Key: "count", Title: "Seen", Value: func(f client.Finding) string { return fmt.Sprint(f.Count) }, Less: func(a, b client.Finding) int { return cmp.Compare(b.Count, a.Count) }, Number: true},
	{Key: "opened", Title: "Since", Value: func(f client.Finding) string { return exact(f.FirstSeen) }, Less: func(a, b client.Finding) int { return b.FirstSeen.Compare(a.FirstSeen) }},
	{Key: "rule", Title: "Rule", Value: func(f client.Finding) string { return f.Rule }},
	{Key: "id", Title: "Finding", Value: func(f client.Finding) string { return f.ID }},
}

func (c *Console) showFindings(v *visit) (any, error) {
	state := v.Query("state")
	q := client.FindingQuery{State: state, Limit: mostFindings}
	switch state {
	case "tuned":
		q.State, q.Tuned = "", true
	case "muted", "closed":
	default:
		state, q.State = "open", "open"
	}
	found, err := v.API.Findings(v.ctx(), q)
	d := findingsPage{listing: arrange(v, found, func(f client.Finding) string { return f.ID }, findingColumns), State: state, Full: len(found) == mostFindings}
	for _, b := range []box{{"open", "Open", -1, false}, {"muted", "Muted", -1, false}, {"closed", "Closed", -1, false}, {"tuned", "With a note", -1, false}} {
		b.Current = b.Name == state
		d.Boxes = append(d.Boxes, b)
	}
	return d, err
}

func (c *Console) showFinding(v *visit) (any, error) {
	f, err := v.API.Finding(v.ctx(), v.Request.PathValue("id"))
	v.Title = f.Title
	return f, err
}

func (c *Console) closeFinding(v *visit) (done, error) {
	f, err := v.reason().CloseFinding(v.ctx(), v.Request.PathValue("id"))
	return done{to: "/findings", said: fmt.Sprintf("Closed: %s", f.Title)}, err
}

// until reads how long something is muted: days from now, or a date.
func (v *visit) until(field string) (time.Time, error) {
	text := strings.TrimSpace(v.Form.Get(field))
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days, "%d", &n); err == nil && n > 0 && n <= 366 {
			return v.Now().Add(time.Duration(n) * 24 * time.Hour), nil
		}
	}
	at, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return at, &client.Error{Status: 422, Detail: fmt.Sprintf("%q is no time until which to mute: choose one of the list.", text)}
	}
	return at, nil
}

func (c *Console) muteFinding(v *visit) (done, error) {
	until, err := v.until("until")
	if err != nil {
		return done{}, err
	}
	f, err := v.reason().MuteFinding(v.ctx(), v.Request.PathValue("id"), until)
	return done{to: string(pathOf("/findings", f.ID)), said: "Muted until " + until.UTC().Format(time.DateOnly) + ". It is counted as ever, and posture sees it as open."}, err
}

func (c *Console) unmuteFinding(v *visit) (done, error) {
	f, err := v.reason().UnmuteFinding(v.ctx(), v.Request.PathValue("id"))
	return done{to: string(pathOf("/findings", f.ID)), said: "It is muted no more."}, err
}

func (c *Console) tuneFinding(v *visit) (done, error) {
	f, err := v.API.TuneFinding(v.ctx(), v.Request.PathValue("id"), v.Form.Get("note"))
	return done{to: string(pathOf("/findings", f.ID)), said: "The note is kept for whoever sets the rule."}, err
}

var muteColumns = []column[client.Mute]{
	{Key: "until", Title: "Until", Value: func(m client.Mute) string { return exact(m.Until) }, Less: func(a, b client.Mute) int { return a.Until.Compare(b.Until) }},
	{Key: "rule", Title: "Rule", Value: func(m client.Mute) string { return m.Rule }},
	{Key: "object", Title: "About", Value: func(m client.Mute) string { return m.Object }},
	{Key: "agent", Title: "Agent", Value: func(m client.Mute) string { return m.Agent }},
	{Key: "by", Title: "By", Value: func(m client.Mute) string { return m.By }},
	{Key: "reason", Title: "Why", Value: func(m client.Mute) string { return m.Reason }},
}

func (c *Console) showMutes(v *visit) (any, error) {
	all, err := v.API.Mutes(v.ctx())
	return arrange(v, all, func(m client.Mute) string { return m.ID }, muteColumns), err
}

func (c *Console) addMute(v *visit) (done, error) {
	until, err := v.until("until")
	if err != nil {
		return done{}, err
	}
	f := v.Form
	_, err = v.reason().AddMute(v.ctx(), client.MuteSpec{Rule: strings.TrimSpace(f.Get("rule")), Object: strings.TrimSpace(f.Get("object")), Agent: strings.TrimSpace(f.Get("agent")), Until: until})
	return done{to: "/mutes", said: "Muted. What it covers is counted as ever, and posture sees it as open."}, err
}

func (c *Console) endMute(v *visit) (done, error) {
	_, err := v.reason().EndMute(v.ctx(), v.Request.PathValue("mute"))
	return done{to: "/mutes", said: "The mute has ended."}, err
}
