package findings

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "finding_not_found", "there is no such finding")
	ErrClosed   = fault.New(fault.Conflict, "finding_closed", "the finding is closed already")
	ErrNotYou   = fault.New(fault.Denied, "review_by_another", "the finding is about what you did yourself; another person has to review and close it")
	ErrInvalid  = fault.New(fault.Invalid, "invalid_finding", "a finding needs a rule, an object, a title and a known severity")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrCursor   = fault.New(fault.Invalid, "bad_cursor", "the cursor must be the id of a finding")
)

// The severities, from least to most.
const (
	Info     = "info"
	Low      = "low"
	Medium   = "medium"
	High     = "high"
	Critical = "critical"
)

// Severities lists them, from least to most.
var Severities = []string{Info, Low, Medium, High, Critical}

// The states of a finding. Muted is open, and nobody wants to hear of it now.
const (
	Open   = "open"
	Muted  = "muted"
	Closed = "closed"
)

// What a finding holds at most; the latest is kept.
const (
	maxEvents  = 50
	maxHistory = 30
)

// Finding is something wrong that someone must see.
type Finding struct {
	ID       string    `json:"id"`
	Rule     string    `json:"rule" doc:"what was looked for, such as tool.drifted"`
	Severity string    `json:"severity" enum:"info,low,medium,high,critical"`
	Object   string    `json:"object" doc:"what it is about, such as tool/ledger/pay_invoice"`
	Agent    string    `json:"agent,omitempty" doc:"whose doing it is about, if it is about an agent"`
	Title    string    `json:"title"`
	Detail   string    `json:"detail,omitempty" doc:"what was seen and what to do"`
	Events   []string  `json:"events,omitempty" doc:"events of the log that show it; the latest 50"`
	Status   string    `json:"status" enum:"open,closed"`
	State    string    `json:"state" enum:"open,muted,closed" doc:"like status, but what is open and muted is muted"`
	Count    int64     `json:"count" doc:"how often it was seen"`
	First    time.Time `json:"first_seen" doc:"when it was seen first"`
	Seen     time.Time `json:"last_seen" doc:"when it was seen last"`
	Opened   time.Time `json:"opened" doc:"when it was opened, or reopened"`
	Updated  time.Time `json:"updated"`
	Reopened int64     `json:"reopened,omitempty" doc:"how often it came back after it had been closed"`
	Closed   time.Time `json:"closed,omitzero"`
	ClosedBy string    `json:"closed_by,omitempty"`
	Reason   string    `json:"reason,omitempty" doc:"why it was closed"`
	MutedTo  time.Time `json:"muted_until,omitzero" doc:"until when it is muted"`
	Tune     string    `json:"tune,omitempty" doc:"what a person noted about how its rule should be set"`
	History  []Act     `json:"history,omitempty" doc:"what was done with it, the latest 30"`
	// NotBy is the identifier of the user who may not close or mute it: it is a
	// review of what they did. Empty: anyone may.
	NotBy    string `json:"not_by,omitempty" doc:"the user (id) who may not close it, because it is about what they did"`
	revision int64
	told     time.Time // when an event last told of it
}

// Act is something that was done with a finding.
type Act struct {
	At     time.Time `json:"at"`
	Act    string    `json:"act" enum:"closed,reopened,tuned"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

var ruleForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// prepare bounds what a room hands over. Texts that are too long are cut, not
// refused: a finding must not be lost over its prose.
func (f *Finding) prepare() error {
	switch {
	case !ruleForm.MatchString(f.Rule):
		return ErrInvalid.Say("a finding's rule must be 1 to 63 of a-z, 0-9, '.', '_' and '-'")
	case f.Object == "" || len(f.Object) > 512:
		return ErrInvalid.Say("a finding's object must have 1 to 512 bytes")
	case f.Title == "":
		return ErrInvalid
	case !slices.Contains(Severities, f.Severity):
		return ErrInvalid.Say("a finding's severity must be one of %s", strings.Join(Severities, ", "))
	}
	f.Object = strings.ReplaceAll(strings.ToValidUTF8(f.Object, "\uFFFD"), "\x00", "\uFFFD")
	f.Title, f.Detail, f.Agent = cut(f.Title, 300), cut(f.Detail, 8<<10), cut(f.Agent, 100)
	if f.Agent == "" {
		f.Agent, _ = strings.CutPrefix(f.Object, "agent/")
		if f.Agent == f.Object {
			f.Agent = ""
		}
	}
	f.Count = max(f.Count, 1, int64(len(f.Events)))
	f.Events = lastEvents(f.Events)
	return nil
}

func cut(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD") // PostgreSQL stores no NUL
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

func lastEvents(events []string) []string {
	return events[max(0, len(events)-maxEvents):]
}

// merge returns the open finding old with what f adds, and whether it differs.
// It was seen again if f brings an event that is new; what merely still is so is
// not counted.
func merge(old, f Finding) (Finding, bool) {
	out := old
	out.Severity, out.Title, out.Detail, out.NotBy, out.Agent = f.Severity, f.Title, f.Detail, f.NotBy, f.Agent
	out.Events = slices.Clone(old.Events)
	var fresh int64
	for _, e := range f.Events {
		if !slices.Contains(out.Events, e) {
			out.Events = append(out.Events, e)
			fresh++
		}
	}
	out.Events = lastEvents(out.Events)
	if fresh > 0 {
		out.Count += max(fresh, f.Count-int64(len(f.Events))+fresh)
	}
	changed := fresh > 0 || out.NotBy != old.NotBy || out.Severity != old.Severity || out.Title != old.Title || out.Detail != old.Detail || out.Agent != old.Agent
	if changed {
		out.Seen, out.Updated = f.Updated, f.Updated
	}
	return out, changed
}

// quiet is how long a finding that is seen again and again is not told of anew.
const quiet = time.Minute

// tell reports whether an event has to tell that old became next: always when it
// became worse or somebody else's to review, and else at each doubling of the
// count, or once in a while. So a flood makes neither many findings nor many
// events.
func tell(old, next Finding) bool {
	doubled := false
	for n := int64(2); n > 0 && n <= next.Count; n *= 2 {
		doubled = doubled || old.Count < n
	}
	return doubled || next.Severity != old.Severity || next.NotBy != old.NotBy || next.Updated.Sub(old.told) >= quiet
}

// back returns the closed finding old as f reopens it.
func back(old, f Finding) Finding {
	out, _ := merge(old, f)
	if out.Count == old.Count {
		out.Count++
	}
	out.Status, out.Opened, out.Seen, out.Updated = Open, f.Updated, f.Updated, f.Updated
	out.Closed, out.ClosedBy, out.Reason = time.Time{}, "", ""
	out.Reopened++
	out.History = did(out.History, Act{At: f.Updated, Act: "reopened", By: "countersign", Reason: "it was seen again"})
	return out
}

func did(history []Act, a Act) []Act {
	history = append(slices.Clone(history), a)
	return history[max(0, len(history)-maxHistory):]
}
