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

// The states of a finding.
const (
	Open   = "open"
	Closed = "closed"
)

// maxEvents bounds the events a finding points to; the latest are kept.
const maxEvents = 50

// Finding is something wrong that someone must see.
type Finding struct {
	ID       string    `json:"id"`
	Rule     string    `json:"rule" doc:"what was looked for, such as tool.drifted"`
	Severity string    `json:"severity" enum:"info,low,medium,high,critical"`
	Object   string    `json:"object" doc:"what it is about, such as tool/ledger/pay_invoice"`
	Title    string    `json:"title"`
	Detail   string    `json:"detail,omitempty" doc:"what was seen and what to do"`
	Events   []string  `json:"events,omitempty" doc:"events of the log that show it"`
	Status   string    `json:"status" enum:"open,closed"`
	Opened   time.Time `json:"opened"`
	Updated  time.Time `json:"updated"`
	Closed   time.Time `json:"closed,omitzero"`
	ClosedBy string    `json:"closed_by,omitempty"`
	Reason   string    `json:"reason,omitempty" doc:"why it was closed"`
	// NotBy is the identifier of the user who may not close it: it is a review of
	// what they did. Empty: anyone may.
	NotBy    string `json:"not_by,omitempty" doc:"the user (id) who may not close it, because it is about what they did"`
	revision int64
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
	f.Object = strings.ToValidUTF8(f.Object, "\uFFFD")
	f.Title, f.Detail = cut(f.Title, 300), cut(f.Detail, 8<<10)
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
func merge(old, f Finding) (Finding, bool) {
	out := old
	out.Severity, out.Title, out.Detail, out.NotBy = f.Severity, f.Title, f.Detail, f.NotBy
	out.Events = slices.Clone(old.Events)
	for _, e := range f.Events {
		if !slices.Contains(out.Events, e) {
			out.Events = append(out.Events, e)
		}
	}
	out.Events = lastEvents(out.Events)
	changed := out.NotBy != old.NotBy || out.Severity != old.Severity || out.Title != old.Title || out.Detail != old.Detail || !slices.Equal(out.Events, old.Events)
	return out, changed
}
