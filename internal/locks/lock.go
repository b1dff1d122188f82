package locks

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
)

// ID is the prefix of a lock's identifier.
const ID id.Kind = "lck"

// What a lock can be on.
const (
	Agent      = "agent"      // an agent, by name; also as a part of a principal chain
	Owner      = "owner"      // a user: the agents they own, and what is done on their behalf
	Team       = "team"       // the agents of a team
	Tool       = "tool"       // CONNECTION/TOOL
	Connection = "connection" // a connection, Countersign's own calls to it included
	Credential = "credential" // one key or token of an agent, by identifier
	Run        = "run"        // one run, by identifier
	Everything = "everything" // every call; its name is empty
)

// Kinds lists them.
var Kinds = []string{Agent, Owner, Team, Tool, Connection, Credential, Run, Everything}

// Errors of this package.
var (
	ErrLocked   = fault.New(fault.Denied, "locked", "a lock stops this call")
	ErrStale    = fault.New(fault.Unavailable, "locks_stale", "locks cannot be seen at the moment, so the call is refused; try again")
	ErrNotFound = fault.New(fault.NotFound, "not_found", "there is no such lock")
	ErrInvalid  = fault.New(fault.Invalid, "invalid_lock", "a lock needs a kind and the name of what it stops")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrEnded    = fault.New(fault.Conflict, "lock_ended", "the lock has ended already")
)

// LongestLife is the longest time that a lock with an expiry may be given.
const LongestLife = 365 * 24 * time.Hour

// Lock is a stop.
type Lock struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind" enum:"agent,owner,team,tool,connection,credential,run,everything"`
	Name      string    `json:"name,omitempty" doc:"of what is stopped; empty for everything"`
	Reason    string    `json:"reason"`
	By        string    `json:"by" doc:"who placed it"`
	Placed    time.Time `json:"placed" doc:"by the database's clock"`
	Expires   time.Time `json:"expires,omitzero" doc:"never, if absent"`
	Ended     time.Time `json:"ended,omitzero"`
	EndedBy   string    `json:"ended_by,omitempty"`
	EndReason string    `json:"end_reason,omitempty"`
}

// On names what the lock is on, such as "agent/invoice-checker".
func (l Lock) On() string {
	if l.Kind == Everything {
		return Everything
	}
	return l.Kind + "/" + l.Name
}

// Subject is what a call is, as far as it is known: who calls, with what, and
// where to. Empty fields are covered by nothing.
type Subject struct {
	Agents     []string // the agent, and agents it acts for
	Owners     []string // the owner, and users on whose behalf it acts
	Team       string
	Credential string
	Lineage    []string // credentials that the credential was issued for
	Run        string
	Connection string
	Tool       string // without the connection
}

// keys lists what could be locked to stop the subject.
func (s Subject) keys() (keys [12]key, more []key) {
	n := 0
	add := func(kind, name string) {
		switch {
		case name == "":
		case n < len(keys):
			keys[n] = key{kind, name}
			n++
		default:
			more = append(more, key{kind, name})
		}
	}
	add(Team, s.Team)
	add(Credential, s.Credential)
	add(Run, s.Run)
	add(Connection, s.Connection)
	if s.Tool != "" {
		add(Tool, s.Connection+"/"+s.Tool)
	}
	for _, c := range s.Lineage {
		add(Credential, c)
	}
	for _, a := range s.Agents {
		add(Agent, a)
	}
	for _, o := range s.Owners {
		add(Owner, o)
	}
	return keys, more
}

// Covers reports whether the lock stops the subject.
func (l Lock) Covers(s Subject) bool {
	if l.Kind == Everything {
		return true
	}
	keys, more := s.keys()
	k := key{l.Kind, l.Name}
	return slices.Contains(keys[:], k) || slices.Contains(more, k)
}

type key struct{ kind, name string }

func (l *Lock) validate() error {
	l.Name = strings.TrimSpace(l.Name)
	switch {
	case !slices.Contains(Kinds, l.Kind):
		return ErrInvalid.Say("a lock is on one of %s", strings.Join(Kinds, ", "))
	case l.Kind == Everything && l.Name != "":
		return ErrInvalid.Say("a lock on everything has no name")
	case l.Kind != Everything && (l.Name == "" || len(l.Name) > 256 || !utf8.ValidString(l.Name)):
		return ErrInvalid.Say("name the %s that is to be stopped", l.Kind)
	case l.Kind == Tool && !strings.Contains(l.Name, "/"):
		return ErrInvalid.Say("a tool is named CONNECTION/TOOL")
	}
	return checkReason(l.Reason)
}

// checkReason wants 1 to 1000 characters that cannot paint over a terminal.
func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" || !utf8.ValidString(reason) || utf8.RuneCountInString(reason) > 1000 {
		return ErrReason
	}
	for _, r := range reason {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return ErrReason.Say("a reason must not hold control characters")
		}
	}
	return nil
}

// snapshot is the locks in force, immutable once published.
type snapshot struct {
	all []Lock // by identifier
	by  map[key]Lock
}

func newSnapshot(all []Lock) *snapshot {
	s := &snapshot{all: all, by: make(map[key]Lock, len(all))}
	for _, l := range all {
		if _, there := s.by[key{l.Kind, l.Name}]; !there {
			s.by[key{l.Kind, l.Name}] = l
		}
	}
	return s
}

func (s *snapshot) covers(sub Subject) (Lock, bool) {
	if len(s.all) == 0 {
		return Lock{}, false
	}
	if l, ok := s.by[key{Everything, ""}]; ok {
		return l, true
	}
	keys, more := sub.keys()
	for _, k := range keys {
		if k.kind == "" {
			break
		}
		if l, ok := s.by[k]; ok {
			return l, true
		}
	}
	for _, k := range more {
		if l, ok := s.by[k]; ok {
			return l, true
		}
	}
	return Lock{}, false
}
