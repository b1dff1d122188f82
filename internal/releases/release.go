package releases

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/policy"
)

// The prefixes of identifiers of this room.
const (
	ID        id.Kind = "rel"
	MoveID    id.Kind = "rmv"
	RequestID id.Kind = "rpr"
)

// The codes of refusals on the line.
const (
	CodeOutside = "outside_release"
	CodeStage   = "release_of_other_stage"
	CodeNone    = "release_required"
)

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "release_not_found", "there is no such release; countersign release list shows what there is")
	ErrNoAgent  = fault.New(fault.NotFound, "agent_not_found", "there is no such agent")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrInvalid  = fault.New(fault.Invalid, "invalid_release", "the release is not described well enough")
	ErrRaced    = fault.New(fault.Conflict, "release_moved", "somebody moved the agent's releases at the same time; look again")
	ErrNothing  = fault.New(fault.Conflict, "nothing_to_roll_back", "there is no release to go back to")
	ErrOutside  = fault.New(fault.Denied, CodeOutside, "the agent's release does not include this")
	ErrRolled   = fault.New(fault.Denied, "release_rolled_back", "the release that bound the call was rolled back")
	ErrRequired = fault.New(fault.Denied, CodeNone, "an agent in production needs a promoted release")
	ErrStage    = fault.New(fault.Denied, CodeStage, "the agent's release was promoted to another stage")
	ErrLocked   = fault.New(fault.Conflict, "agent_locked", "a lock is on the agent; nothing is promoted until it is lifted")
	ErrGate     = fault.New(fault.Conflict, "not_ready", "the release does not pass the readiness gate")
	ErrSelf     = fault.New(fault.Denied, "approve_by_another", "whoever asks for a promotion does not approve it; another person has to")
	ErrDecided  = fault.New(fault.Conflict, "request_decided", "the request was decided already, or its time is over")
	ErrNoAsk    = fault.New(fault.NotFound, "request_not_found", "there is no such request for a promotion")
)

// Limits of a release.
const (
	maxModels = 200
	maxTests  = 1000
)

// Release is an agent as it was at one moment. It does not change.
type Release struct {
	ID      string    `json:"id"`
	Agent   string    `json:"agent"`
	Number  int64     `json:"number" doc:"counts from 1 for each agent"`
	Digest  string    `json:"digest" doc:"hex SHA-256 of its content"`
	Reason  string    `json:"reason"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Content
}

// Content is what a release pins and keeps.
type Content struct {
	Models   []string      `json:"models" doc:"CONNECTION/MODEL, exactly as requests name it; none are pinned if empty"`
	Prompts  []string      `json:"prompts" doc:"hex SHA-256 of the system prompts that models may be given; not pinned if empty"`
	Tools    []Tool        `json:"tools" doc:"what the agent may call, by the definition that a person accepted"`
	Grants   []Grant       `json:"grants"`
	Policies []Policy      `json:"policies" doc:"policy files that concern the agent"`
	Tests    []policy.Case `json:"tests" doc:"decisions that must come out so before it is promoted"`
}

// Tool is a pinned tool.
type Tool struct {
	Connection string `json:"connection"`
	Name       string `json:"name"`
	Digest     string `json:"digest,omitempty" doc:"of the accepted definition; empty for one that is part of the protocol"`
	Effect     string `json:"effect"`
}

func (t Tool) path() string { return t.Connection + "/" + t.Name }

// Grant is a kept grant.
type Grant struct {
	Name       string    `json:"name"`
	Connection string    `json:"connection"`
	Tools      []string  `json:"tools"`
	When       string    `json:"when,omitempty"`
	Expires    time.Time `json:"expires,omitzero"`
}

// Policy is a kept policy file.
type Policy struct {
	Name   string `json:"name"`
	Digest string `json:"digest" doc:"hex SHA-256 of the text"`
	Text   string `json:"text"`
	// Own says that every policy in it is about this agent alone: a rollback
	// restores it. Others are shared, and are rolled back by themselves.
	Own bool `json:"own" doc:"it is about this agent alone, so a rollback restores it"`
}

// State is which release of an agent is in force.
type State struct {
	Agent   string    `json:"agent"`
	Stage   string    `json:"stage" doc:"to which the release in force was promoted"`
	Active  int64     `json:"active" doc:"the release in force; 0: none, the agent is in development"`
	Canary  int64     `json:"canary,omitzero" doc:"the release that a share of the runs tries"`
	Percent int64     `json:"percent,omitzero"`
	Signals *Signals  `json:"signals,omitempty" doc:"by what the canary is judged"`
	Since   time.Time `json:"since" doc:"of the last move"`

	position string
	revision int64
	rolled   map[int64]int64 // releases that were rolled back, with the revision since when
}

// left notes that the releases in force and tried are rolled back, but for to.
func (s *State) left(to int64) {
	s.rolled = maps.Clone(s.rolled)
	if s.rolled == nil {
		s.rolled = map[int64]int64{}
	}
	for _, n := range []int64{s.Active, s.Canary} {
		if n != 0 && n != to {
			s.rolled[n] = s.revision + 1
		}
	}
}

// Move is something that was done with an agent's releases.
type Move struct {
	ID       string    `json:"id"`
	Agent    string    `json:"agent"`
	Kind     string    `json:"kind" enum:"promoted,canary,rolled_back"`
	Stage    string    `json:"stage"`
	Number   int64     `json:"number" doc:"in force, or tried, from then on"`
	Previous int64     `json:"previous" doc:"in force, or tried, before"`
	Reason   string    `json:"reason"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`

	took map[string]int64 // the versions that it made of grants, by their names
}

// The kinds of moves.
const (
	MovePromoted   = "promoted"
	MoveCanary     = "canary"
	MoveRolledBack = "rolled_back"
)

// seal returns the canonical text of a content and its digest.
func (c Content) seal() (text, digest string, err error) {
	b, err := json.Marshal(c, json.Deterministic(true))
	if err != nil {
		return "", "", err
	}
	return string(b), sum(string(b)), nil
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

// PromptDigest returns the digest by which a system prompt is pinned: of its
// text without the space around it.
func PromptDigest(text string) string { return sum(strings.TrimSpace(text)) }

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check refuses what people said of a release that cannot be.
func (c Content) check() error {
	switch {
	case len(c.Models) > maxModels || len(c.Prompts) > maxModels:
		return ErrInvalid.Say("a release pins at most %d models and as many prompts", maxModels)
	case len(c.Tests) > maxTests:
		return ErrInvalid.Say("a release keeps at most %d tests", maxTests)
	}
	for _, m := range c.Models {
		if conn, name, ok := strings.Cut(m, "/"); !ok || conn == "" || name == "" || len(m) > 256 || !utf8.ValidString(m) {
			return ErrInvalid.Say("models: %.80q must be CONNECTION/MODEL, the model as requests name it", m)
		}
	}
	for _, p := range c.Prompts {
		if !hexDigest.MatchString(p) {
			return ErrInvalid.Say("prompts: %.80q is no SHA-256 in hex", p)
		}
	}
	return nil
}

// tidy sorts what has no order, so that equal contents have equal digests.
func (c *Content) tidy() {
	for _, list := range []*[]string{&c.Models, &c.Prompts} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	slices.SortFunc(c.Tools, func(a, b Tool) int { return strings.Compare(a.path(), b.path()) })
	slices.SortFunc(c.Grants, func(a, b Grant) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Policies, func(a, b Policy) int { return strings.Compare(a.Name, b.Name) })
	if c.Models == nil {
		c.Models = []string{}
	}
	if c.Prompts == nil {
		c.Prompts = []string{}
	}
	if c.Tools == nil {
		c.Tools = []Tool{}
	}
	if c.Grants == nil {
		c.Grants = []Grant{}
	}
	if c.Policies == nil {
		c.Policies = []Policy{}
	}
	if c.Tests == nil {
		c.Tests = []policy.Case{}
	}
}

// wire returns the grant as policy gives it to an agent.
func (g Grant) wire(agent string) policy.Grant {
	return policy.Grant{Name: g.Name, Agent: agent, Connection: g.Connection, Tools: g.Tools, When: g.When, Expires: g.Expires}
}

func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) {
		return ErrReason
	}
	return nil
}
