package reviews

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/id"
)

// The kinds of what is reviewed.
const (
	Grant      = "grant"
	Secret     = "secret"
	Owner      = "owner" // that a person answers for an agent
	Connection = "connection"
	Trust      = "trust"
)

// Kinds lists them.
var Kinds = []string{Grant, Secret, Owner, Connection, Trust}

// Why something is asked about.
const (
	FlagNew    = "new"    // never reviewed as it is now
	FlagUnused = "unused" // watched for long enough, and not used
	FlagWide   = "wide"   // everything of a connection, or a change without an end
	FlagRisky  = "risky"  // something that cannot be undone, or a person who left
)

// Flags lists them.
var Flags = []string{FlagNew, FlagUnused, FlagWide, FlagRisky}

// What silence means when a review's time is over.
const (
	RevokeSilent   = "revoke"
	KeepSilent     = "keep"
	EscalateSilent = "escalate"
)

// Silences lists them.
var Silences = []string{RevokeSilent, KeepSilent, EscalateSilent}

// The states of a review.
const (
	Open    = "open"    // something waits for a decision
	Decided = "decided" // nothing does; what was revoked is being executed
	Closed  = "closed"
)

const (
	reviewID id.Kind = "rvw"
	itemID   id.Kind = "rvi"
)

const (
	day         = 24 * time.Hour
	usualDue    = 14 * day
	longestDue  = 366 * day
	mostItems   = 2000
	usualUnused = 30 * day
)

// Scope says what a review is about. Empty lists select everything.
type Scope struct {
	Kinds       []string `json:"kinds,omitzero" required:"false" doc:"grant (if none is named), secret, owner, connection, trust"`
	Agents      []string `json:"agents,omitzero" required:"false" doc:"only what these agents have"`
	Teams       []string `json:"teams,omitzero" required:"false"`
	Stages      []string `json:"stages,omitzero" required:"false"`
	Connections []string `json:"connections,omitzero" required:"false"`
	Names       []string `json:"names,omitzero" required:"false" doc:"only what has one of these names"`
	Only        []string `json:"only,omitzero" required:"false" doc:"new, unused, wide, risky; all four if none is named"`
	All         bool     `json:"all,omitzero" required:"false" doc:"what is none of these, too"`
	UnusedFor   string   `json:"unused_for,omitzero" required:"false" doc:"how long something must have been watched without a use to count as unused; 720h if empty"`
}

// Rules say who reviews and what happens if they do not.
type Rules struct {
	Levels   [][]string `json:"levels,omitzero" required:"false" doc:"one or two levels of reviewers: owner (if none is named), backup, connection-owner, user:NAME, group:NAME, role:admin. What the first keeps, the second confirms"`
	Apart    bool       `json:"apart,omitzero" required:"false" doc:"the owner of the agent does not count as a reviewer"`
	Escalate []string   `json:"escalate,omitzero" required:"false" doc:"who decides when nobody else can or did; role:admin if empty"`
	Silence  string     `json:"silence,omitzero" required:"false" enum:"revoke,keep,escalate" doc:"what becomes of what nobody decided in time; escalate if empty"`
	Remind   []string   `json:"remind,omitzero" required:"false" doc:"how long before the end reviewers are reminded; 168h and 24h if empty"`
	Grace    string     `json:"grace,omitzero" required:"false" doc:"how long after its decision a revoke is executed; at once if empty"`
}

// Review is a campaign, or a question.
type Review struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Question string    `json:"question,omitzero" doc:"what changed, if it was asked because something did"`
	Scope    Scope     `json:"scope"`
	Rules    Rules     `json:"rules"`
	State    string    `json:"state" enum:"open,decided,closed"`
	By       Person    `json:"by"`
	Reason   string    `json:"reason"`
	Created  time.Time `json:"created"`
	Due      time.Time `json:"due"`
	Overdue  bool      `json:"overdue,omitzero" doc:"its time is over and something is still open"`
	Closed   time.Time `json:"closed,omitzero"`
	ClosedBy string    `json:"closed_by,omitzero"`
	Event    string    `json:"event" doc:"of the log, with the digest of what is asked"`
	Reminded int       `json:"reminded,omitzero" doc:"how many reminders were sent"`
	Counts   Counts    `json:"counts"`
	Items    []Item    `json:"items,omitempty"`

	revision int64
}

// Counts say how a review stands.
type Counts struct {
	Items   int `json:"items"`
	Open    int `json:"open"`
	Kept    int `json:"kept"`
	Revoked int `json:"revoked"`
	Gone    int `json:"gone" doc:"what was not there any more"`
	Pending int `json:"pending" doc:"revokes that are not executed and tried yet"`
	Failed  int `json:"failed" doc:"revokes that could not be executed, or did not hold"`
}

// Person is a user, by identifier and by the name they had.
type Person struct {
	ID   string `json:"id,omitzero"`
	Name string `json:"name"`
}

func (p Person) same(o Person) bool {
	if p.ID != "" && o.ID != "" {
		return p.ID == o.ID
	}
	return p.Name == o.Name
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`)

// normalize fills in defaults and says what is wrong (ErrInvalid).
func (r *Review) normalize(now time.Time) error {
	if !nameForm.MatchString(r.Name) {
		return ErrInvalid.Say("name: must be 1 to 100 lower case letters, digits, dots, hyphens or underscores")
	}
	if r.Due.IsZero() {
		r.Due = now.Add(usualDue)
	}
	if !r.Due.After(now) || r.Due.Sub(now) > longestDue {
		return ErrInvalid.Say("due: must be in the future, at most a year away")
	}
	if err := r.Scope.normalize(); err != nil {
		return err
	}
	return r.Rules.normalize(r.Scope, r.Due.Sub(now))
}

func (s *Scope) normalize() error {
	if len(s.Kinds) == 0 {
		s.Kinds = []string{Grant}
	}
	if len(s.Only) == 0 && !s.All {
		s.Only = Flags
	}
	for _, f := range []struct {
		field       string
		given, some []string
	}{{"kinds", s.Kinds, Kinds}, {"only", s.Only, Flags}, {"stages", s.Stages, []string{"development", "staging", "production"}}} {
		for _, v := range f.given {
			if !slices.Contains(f.some, v) {
				return ErrInvalid.Say("%s: %.40q is none of %s", f.field, v, strings.Join(f.some, ", "))
			}
		}
	}
	if s.UnusedFor == "" {
		s.UnusedFor = usualUnused.String()
	}
	for _, list := range [][]string{s.Agents, s.Teams, s.Connections, s.Names} {
		if len(list) > 500 {
			return ErrInvalid.Say("at most 500 names in a list")
		}
	}
	return duration("unused_for", s.UnusedFor, time.Minute, longestDue)
}

func (s Scope) unusedFor() time.Duration { d, _ := time.ParseDuration(s.UnusedFor); return d }

func duration(field, text string, least, most time.Duration) error {
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return ErrInvalid.Say("%s: must be a duration from %s to %s, such as 168h", field, least, most)
	}
	return nil
}

func (r *Rules) normalize(s Scope, life time.Duration) error {
	if len(r.Levels) == 0 {
		r.Levels = [][]string{{"owner"}}
		if slices.Equal(s.Kinds, []string{Owner}) { // nobody says of themselves that they are the right one
			r.Levels = [][]string{{"backup"}}
		}
	}
	if len(r.Levels) > 2 {
		return ErrInvalid.Say("levels: one or two")
	}
	if len(r.Escalate) == 0 {
		r.Escalate = []string{"role:admin"}
	}
	for _, level := range append(slices.Clone(r.Levels), r.Escalate) {
		if len(level) == 0 || len(level) > 20 {
			return ErrInvalid.Say("levels: each names 1 to 20 reviewers")
		}
		for _, rule := range level {
			if err := checkRule(rule); err != nil {
				return err
			}
		}
	}
	if r.Silence == "" {
		r.Silence = EscalateSilent
	}
	if !slices.Contains(Silences, r.Silence) {
		return ErrInvalid.Say("silence: must be revoke, keep or escalate")
	}
	return r.times(life)
}

func (r *Rules) times(life time.Duration) error {
	if len(r.Remind) == 0 {
		for _, d := range []time.Duration{7 * day, day} {
			if d < life {
				r.Remind = append(r.Remind, d.String())
			}
		}
	}
	if len(r.Remind) > 10 {
		return ErrInvalid.Say("remind: at most ten times")
	}
	for _, d := range r.Remind {
		if err := duration("remind", d, time.Minute, life); err != nil {
			return err
		}
	}
	slices.SortFunc(r.Remind, func(a, b string) int {
		x, _ := time.ParseDuration(a)
		y, _ := time.ParseDuration(b)
		return int(y/time.Second) - int(x/time.Second) // the earliest, longest before the end, first
	})
	if r.Grace == "" {
		return nil
	}
	return duration("grace", r.Grace, 0, 30*day)
}

func (r Rules) grace() time.Duration { d, _ := time.ParseDuration(r.Grace); return d }

func checkRule(rule string) error {
	what, name, named := strings.Cut(rule, ":")
	switch what {
	case "owner", "backup", "connection-owner":
		if !named {
			return nil
		}
	case "user", "group", "role":
		if named && name != "" && len(name) <= 63 {
			return nil
		}
	}
	return ErrInvalid.Say("reviewers: %.80q is none of owner, backup, connection-owner, user:NAME, group:NAME, role:ROLE", rule)
}

// nextLook is when the clock has to look at the review again; zero: never.
func (r *Review) nextLook(now time.Time) time.Time {
	if r.State == Closed {
		return time.Time{}
	}
	next := now.Add(lookAgain)
	for _, at := range []time.Time{r.nextReminder(), r.Due} {
		if !at.IsZero() && at.After(now) && at.Before(next) {
			next = at
		}
	}
	return next
}

// nextReminder is when the next reminder is due; zero: there is none.
func (r *Review) nextReminder() time.Time {
	if r.Reminded >= len(r.Rules.Remind) {
		return time.Time{}
	}
	d, _ := time.ParseDuration(r.Rules.Remind[r.Reminded])
	return r.Due.Add(-d)
}

// lookAgain is how often the clock looks whether reviewers are still there.
const lookAgain = time.Minute

// checkReason wants at most 1000 characters that cannot paint over a terminal,
// and at least one if it is needed.
func checkReason(reason string, needed bool) error {
	if needed && strings.TrimSpace(reason) == "" {
		return ErrReason
	}
	if utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) {
		return ErrReason
	}
	for _, r := range reason {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return ErrReason.Say("a reason must not hold control characters")
		}
	}
	return nil
}
