package export

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
)

// OCSFVersion is the version of the Open Cybersecurity Schema Framework that
// objects follow.
const OCSFVersion = "1.8.0"

// Mapper turns records into the forms of others. Its methods are pure: the same
// record gives the same bytes on every replica, today and tomorrow.
type Mapper struct {
	Version string // of this product
	// Kind returns the kind of a connection (llm, mcp, http, retrieval), empty if
	// it is not known any more. Nil knows none.
	Kind func(connection string) string
	// Payloads includes the bodies that stand beside events, as far as the
	// records carry them.
	Payloads bool
}

// OCSF returns the record as one OCSF object, one line of JSON without a line
// feed.
func (m *Mapper) OCSF(r *audit.Record) ([]byte, error) {
	ev := &r.Event
	k, _ := kindOf(ev.Type)
	if strings.HasPrefix(string(ev.Type), "call.") {
		k.activity = callActivity(ev.Effect)
	}
	o := m.base(r, k)
	switch k.class {
	case apiActivity:
		m.apiActivity(&o, ev)
	case authentication:
		o.User, o.Service = subject(ev), &ocsfNamed{Name: productName}
		if ev.Run != "" {
			o.Session = &ocsfSession{UID: ev.Run, Issuer: productName}
		}
	case accountChange:
		o.User = subject(ev)
		o.Actor = actor(ev)
		if ev.Object != "" && strings.HasPrefix(string(ev.Type), "grant.") {
			o.Policies = []ocsfPolicy{{Name: nameOf(ev.Object), Type: "grant"}}
		}
	case detectionFinding:
		o.FindingInfo, o.Comment = finding(ev), ev.Reason
		findingStatus(&o, ev)
	}
	o.unmapped(m, r)
	b, err := json.Marshal(o, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, fmt.Errorf("event %s as OCSF: %w", ev.ID, err)
	}
	return b, nil
}

const productName = "Countersign"

// base fills what every class has.
func (m *Mapper) base(r *audit.Record, k kind) ocsfEvent {
	ev := &r.Event
	info := classes[k.class]
	activity := info.activities[k.activity]
	if activity == "" {
		k.activity, activity = other, string(ev.Type)
	}
	o := ocsfEvent{
		ActivityID: k.activity, ActivityName: activity, CategoryUID: k.class.category(), CategoryName: info.category,
		ClassUID: int(k.class), ClassName: info.name, TypeUID: int64(k.class)*100 + int64(k.activity), TypeName: info.name + ": " + activity,
		Time: ev.Time.UnixMilli(), Message: message(ev), StatusID: 1, Status: "Success",
		Metadata: ocsfMetadata{
			Version: OCSFVersion, Product: ocsfProduct{productName, productName, m.Version}, UID: ev.ID, EventCode: string(ev.Type),
			Correlation: ev.Call, Sequence: r.SN, LogName: fmt.Sprintf("lane %d", r.Lane), LogVersion: fmt.Sprint(ev.Schema), Labels: ev.Labels,
		},
	}
	if o.Metadata.Correlation == "" {
		o.Metadata.Correlation = ev.Run
	}
	if k.class != detectionFinding && ev.Remote != "" {
		o.SrcEndpoint = endpoint(ev.Remote)
	}
	if k.class != detectionFinding && ev.Client != "" {
		o.HTTPRequest = &ocsfRequest{ev.Client}
	}
	if strings.HasSuffix(string(ev.Type), ".refused") {
		d := detailOf(ev)
		o.fail(d.Code, d.Reason)
		o.act(2, "Denied", 2, "Blocked")
		if d.Count > 1 {
			o.Count = d.Count
		}
	}
	o.severity(severityOf(ev))
	return o
}

func endpoint(remote string) *ocsfEndpoint {
	if _, err := netip.ParseAddr(remote); err != nil {
		return &ocsfEndpoint{Name: remote}
	}
	return &ocsfEndpoint{IP: remote}
}

func (o *ocsfEvent) fail(code, why string) {
	o.StatusID, o.Status, o.StatusCode, o.StatusDetail = 2, "Failure", code, why
}

// act says what the gateway did, as the profile security_control has it.
func (o *ocsfEvent) act(id int, action string, disposition int, caption string) {
	o.ActionID, o.Action, o.DispositonID, o.Disposition = id, action, disposition, caption
	o.profile("security_control")
}

func (o *ocsfEvent) profile(name string) { o.Metadata.Profiles = append(o.Metadata.Profiles, name) }

var severities = []string{"Unknown", "Informational", "Low", "Medium", "High", "Critical"}

func (o *ocsfEvent) severity(n int) { o.SeverityID, o.Severity = n, severities[n] }

// apiActivity fills what is particular to calls and to changes.
func (m *Mapper) apiActivity(o *ocsfEvent, ev *audit.Event) {
	o.Actor = actor(ev)
	if o.SrcEndpoint == nil {
		o.SrcEndpoint = &ocsfEndpoint{Name: orElse(ev.Agent, serviceName)}
	}
	o.API = &ocsfAPI{Operation: orElse(ev.Tool, string(ev.Type))}
	if ev.Connection != "" {
		o.API.Service = &ocsfNamed{Name: ev.Connection}
	}
	if ev.Call != "" {
		o.API.Request = &ocsfUID{ev.Call}
	}
	if ev.Tool != "" {
		o.Resources = []ocsfResource{{Name: ev.Connection + "/" + ev.Tool, Type: "tool", Namespace: ev.Connection}}
	} else if ev.Object != "" {
		o.Resources = []ocsfResource{{Name: ev.Object, Type: typeOf(ev.Object)}}
	}
	if len(o.Resources) > 0 && ev.Owner != "" && ev.Agent == "" {
		o.Resources[0].Owner = &ocsfOwner{ev.Owner}
	}
	if ev.Call != "" || ev.Run != "" {
		o.Trace = &ocsfTrace{traceHex(ev)}
		o.profile("trace")
	}
	o.decision(ev)
	m.outcome(o, ev)
}

func (o *ocsfEvent) decision(ev *audit.Event) {
	d := ev.Decision
	if d == nil {
		return
	}
	if len(d.Policies) > 0 {
		o.Policy = &ocsfPolicy{Name: d.Policies[0], Type: "policy", Version: d.Version}
	} else if len(d.Grants) > 0 {
		o.Policy = &ocsfPolicy{Name: d.Grants[0], Type: "grant", Version: d.Version}
	}
	switch d.Effect {
	case "allow":
		o.act(1, "Allowed", 1, "Allowed")
	case "hold":
		o.StatusID, o.Status, o.StatusCode, o.StatusDetail = other, "Held", orElse(d.Code, "held"), d.Reason
		o.act(other, "Held", 14, "Delayed")
	default:
		o.fail(orElse(d.Code, "denied"), d.Reason)
		o.act(2, "Denied", 2, "Blocked")
	}
}

func (m *Mapper) outcome(o *ocsfEvent, ev *audit.Event) {
	out := ev.Outcome
	if out == nil {
		return
	}
	o.StatusCode, o.Duration = out.Status, out.Micros/1000
	switch out.Status {
	case audit.Succeeded:
	case audit.Unknown:
		o.StatusID, o.Status, o.StatusDetail = 0, "Unknown", out.Error
	default:
		o.fail(out.Status, out.Error)
	}
	o.API.Response = &ocsfAPIAnswer{Code: out.Code, Message: out.Error}
	if out.Status != audit.Succeeded {
		o.API.Response.Error = out.Status
	}
	if out.Code >= 100 && out.Code < 600 {
		o.HTTPResponse = &ocsfResponse{Code: out.Code, Length: out.Bytes}
	}
	if u := out.Usage; u != nil {
		o.AIModel = &ocsfModel{Name: orElse(u.Model, "unknown"), Provider: orElse(provider(ev.Tool), ev.Connection, "unknown")}
		o.AIMessage = &ocsfMessage{Service: ocsfNamed{Name: orElse(ev.Connection, "unknown")}, Prompt: u.Input, Completion: u.Output, Total: u.Input + u.Output}
		o.profile("ai_operation")
	}
}

func (o *ocsfEvent) unmapped(m *Mapper, r *audit.Record) {
	o.Unmapped = ocsfUnmapped{Event: r.Raw, Lane: r.Lane}
	if m.Payloads {
		for _, c := range r.Event.Payloads {
			if b, ok := r.Payloads[c.Name]; ok {
				if o.Unmapped.Payloads == nil {
					o.Unmapped.Payloads = map[string]string{}
				}
				o.Unmapped.Payloads[c.Name] = text(b, audit.MaxPayload)
			}
		}
	}
}

// actor is who did it.
func actor(ev *audit.Event) *ocsfActor {
	a := &ocsfActor{User: userOf(ev.Actor), AppName: ev.Agent}
	a.User.Credential = ev.Credential
	if ev.Run != "" {
		a.Session = &ocsfSession{UID: ev.Run, Issuer: productName}
	}
	return a
}

// userOf describes an actor. A name is required of a user; who is not known is
// called so.
func userOf(a audit.Actor) *ocsfUser {
	u := &ocsfUser{Name: orElse(a.Name, a.ID, "unknown"), UID: a.ID}
	switch a.Kind {
	case audit.KindUser:
		u.TypeID, u.Type = 1, "User"
	case audit.KindAgent:
		u.TypeID, u.Type = 4, "Service"
	case audit.KindSystem:
		u.TypeID, u.Type = 3, "System"
	default:
		u.Type = "Unknown"
	}
	return u
}

// subject is the account that an event is about: its object, an agent or a
// user, else who acted.
func subject(ev *audit.Event) *ocsfUser {
	about := audit.Actor{}
	switch noun := typeOf(ev.Object); {
	case noun == "user":
		about = audit.Actor{Kind: audit.KindUser, Name: nameOf(ev.Object)}
	case noun == "agent":
		about = audit.Actor{Kind: audit.KindAgent, Name: nameOf(ev.Object)}
	case ev.Agent != "":
		about = audit.Actor{Kind: audit.KindAgent, Name: ev.Agent}
	}
	if about.Name == "" || about.Name == ev.Actor.Name && about.Kind == ev.Actor.Kind {
		about = ev.Actor
	}
	u := userOf(about)
	if ev.Team != "" {
		u.Groups = []ocsfNamed{{Name: ev.Team}}
	}
	u.Credential = ev.Credential
	return u
}

// detail is what is read of an event's detail. What has another form is empty:
// it is in unmapped, whole.
type detail struct {
	Code, Reason, Finding, Rule, Severity, Title, Detail string
	Count                                                int64
}

func detailOf(ev *audit.Event) detail {
	var members map[string]jsontext.Value
	if len(ev.Detail) == 0 || json.Unmarshal(ev.Detail, &members) != nil {
		return detail{}
	}
	var d detail
	for name, into := range map[string]any{
		"code": &d.Code, "reason": &d.Reason, "finding": &d.Finding, "rule": &d.Rule, "severity": &d.Severity,
		"title": &d.Title, "detail": &d.Detail, "count": &d.Count,
	} {
		if v, ok := members[name]; ok {
			_ = json.Unmarshal(v, into) // stays empty if it is something else
		}
	}
	return d
}

func finding(ev *audit.Event) *ocsfFinding {
	d := detailOf(ev)
	f := &ocsfFinding{UID: orElse(d.Finding, ev.ID), Title: d.Title, Desc: d.Detail, Modified: ev.Time.UnixMilli()}
	if d.Rule != "" {
		f.Types = []string{d.Rule}
	}
	return f
}

func findingStatus(o *ocsfEvent, ev *audit.Event) {
	o.StatusID, o.Status = 1, "New"
	switch ev.Type {
	case "finding.updated":
		o.StatusID, o.Status = 2, "In Progress"
	case "finding.closed":
		o.StatusID, o.Status = 4, "Resolved"
	}
	if ev.Object != "" {
		o.Resources = []ocsfResource{{Name: ev.Object, Type: typeOf(ev.Object)}}
	}
}

// severityOf is how much an event should worry whoever reads a SIEM.
func severityOf(ev *audit.Event) int {
	switch ev.Type {
	case audit.CallDenied, audit.AuthRefused:
		return 3
	case audit.CallHeld, audit.CallRefused:
		return 2
	case audit.CallOutcome, audit.CallSettled:
		if ev.Outcome != nil && ev.Outcome.Status != audit.Succeeded {
			return 2
		}
	case "finding.opened", "finding.updated", "finding.closed":
		if n, ok := map[string]int{"info": 1, "low": 2, "medium": 3, "high": 4, "critical": 5}[detailOf(ev).Severity]; ok && ev.Type != "finding.closed" {
			return n
		}
	}
	return 1
}

// message says in a line what happened.
func message(ev *audit.Event) string {
	var b strings.Builder
	b.WriteString(string(ev.Type))
	for _, part := range []struct{ before, what string }{
		{" ", toolOf(ev)}, {" ", ev.Object}, {" by ", orElse(ev.Actor.Name, ev.Agent)}, {": ", outcomeOf(ev)}, {": ", ev.Reason},
	} {
		if part.what != "" {
			b.WriteString(part.before + part.what)
		}
	}
	return text([]byte(b.String()), 1024)
}

func toolOf(ev *audit.Event) string {
	if ev.Tool == "" {
		return ev.Connection
	}
	return ev.Connection + "/" + ev.Tool
}

func outcomeOf(ev *audit.Event) string {
	switch {
	case ev.Outcome != nil && ev.Outcome.Error != "":
		return ev.Outcome.Status + ", " + ev.Outcome.Error
	case ev.Outcome != nil:
		return ev.Outcome.Status
	case ev.Decision != nil && ev.Decision.Effect != "allow":
		return ev.Decision.Reason
	}
	return ""
}

// typeOf and nameOf split an object such as agent/invoice-checker.
func typeOf(object string) string {
	noun, _, ok := strings.Cut(object, "/")
	if !ok {
		return orElse(object, "object")
	}
	return noun
}

func nameOf(object string) string {
	_, name, ok := strings.Cut(object, "/")
	if !ok {
		return object
	}
	return name
}

func orElse(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// text returns b as valid UTF-8 of at most most bytes. What was cut ends with
// an ellipsis.
func text(b []byte, most int) string {
	s := string(b)
	cut := len(s) > most
	if cut {
		s = s[:most-len("…")]
		for range utf8.UTFMax { // not through a character
			if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if cut {
		s += "…"
	}
	return s
}
