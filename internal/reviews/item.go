package reviews

import (
	"slices"
	"time"
)

// What is decided about an item. Empty: nothing yet.
const (
	Keep   = "keep"
	Revoke = "revoke"
	Gone   = "gone" // it was not there any more, or is another one of its name
)

// What became of a decision.
const (
	NoRemedy = "none"     // nothing is to be done
	Waiting  = "open"     // a revoke that is not executed yet
	Executed = "executed" // done, not tried yet
	Success  = "success"  // done, and the line refuses
	Unproven = "unproven" // done, and nothing could be tried that would show it
	Failed   = "error"    // it did not hold, and somebody must look
	ByHand   = "manual"   // a person has to do it
)

// Verdict is one person's answer, or that of silence.
type Verdict struct {
	By       Person    `json:"by" doc:"without an id: nobody in person"`
	Level    int       `json:"level"`
	Decision string    `json:"decision" enum:"keep,revoke,gone"`
	Reason   string    `json:"reason,omitzero"`
	At       time.Time `json:"at"`
	Event    string    `json:"event"`
}

// Handover says that someone else reviews in the place of another.
type Handover struct {
	From  Person    `json:"from"`
	To    Person    `json:"to"`
	Level int       `json:"level"`
	Note  string    `json:"note"`
	At    time.Time `json:"at"`
	Event string    `json:"event"`
}

// Probe is a call that was tried after a revoke.
type Probe struct {
	What   string `json:"what" doc:"such as call of ledger/pay_invoice"`
	Result string `json:"result" enum:"refused,allowed_otherwise,let_through,not_tried"`
	Why    string `json:"why,omitzero"`
	Event  string `json:"event,omitzero" doc:"of the log, that shows it"`
}

// The results of a probe.
const (
	Refused    = "refused"
	Otherwise  = "allowed_otherwise" // something else that is not revoked allows it, so it was not asked for
	LetThrough = "let_through"
	NotTried   = "not_tried"
)

// Since is the use of a right after the decision to revoke it.
type Since struct {
	Calls int       `json:"calls"`
	Last  time.Time `json:"last"`
	Event string    `json:"event" doc:"the last one's"`
}

// Remedy is what became of a revoke.
type Remedy struct {
	Done   string    `json:"done,omitzero" doc:"what was done, in words"`
	At     time.Time `json:"at,omitzero"`
	Tries  int       `json:"tries,omitzero"`
	Error  string    `json:"error,omitzero"`
	Probes []Probe   `json:"probes,omitzero"`
	Used   *Since    `json:"used,omitzero" doc:"calls between the decision and its execution"`
	To     string    `json:"to,omitzero" doc:"of an owner: who is to be the next"`
	Lock   string    `json:"lock,omitzero" doc:"that ends it, of a connection"`
	Rule   *Trusted  `json:"rule,omitzero" doc:"that was removed, as it was"`
}

// Trusted is what a trust rule let in.
type Trusted struct {
	Issuer   string            `json:"issuer"`
	Audience string            `json:"audience,omitzero"`
	Subject  string            `json:"subject"`
	Wildcard string            `json:"wildcard,omitzero"`
	Claims   map[string]string `json:"claims,omitzero"`
	Person   bool              `json:"person,omitzero" doc:"it was about a person, for whom the agent acts"`
}

// Item is one thing that a review asks about.
type Item struct {
	ID          string     `json:"id"`
	Review      string     `json:"review"`
	N           int        `json:"n"`
	Subject     Subject    `json:"subject" doc:"as it is asked about"`
	Level       int        `json:"level" doc:"1 or 2"`
	Handovers   []Handover `json:"handovers,omitzero"`
	Escalated   time.Time  `json:"escalated,omitzero"`
	Why         string     `json:"why,omitzero" doc:"why it escalated"`
	Decision    string     `json:"decision,omitzero"`
	Decided     time.Time  `json:"decided,omitzero"`
	Verdicts    []Verdict  `json:"verdicts,omitzero"`
	Remediation string     `json:"remediation"`
	Remedy      Remedy     `json:"remedy,omitzero"`
	Events      []string   `json:"events"`
	Reviewers   []string   `json:"reviewers,omitempty" doc:"who may decide now"`

	look     time.Time
	revision int64
}

// open reports whether the item waits for a decision.
func (it *Item) open() bool { return it.Decision == "" }

// settled reports whether nothing is to be done about the item any more.
func (it *Item) settled() bool {
	return !it.open() && it.Remediation != Waiting && it.Remediation != Executed
}

// holders returns whom the item was handed to at its present level, the last
// first. Who had it when it escalated does not have it any more.
func (it *Item) holders() []Person {
	var out []Person
	for _, h := range slices.Backward(it.Handovers) {
		if h.Level == it.Level && !h.At.Before(it.Escalated) {
			out = append(out, h.To)
		}
	}
	return out
}

// had reports whether a person has or had the item at its present level.
func (it *Item) had(p Person) bool {
	return slices.ContainsFunc(it.Handovers, func(h Handover) bool { return h.Level == it.Level && (h.To.same(p) || h.From.same(p)) })
}

// count adds an item to how a review stands.
func (c *Counts) count(it *Item) {
	c.Items++
	switch it.Decision {
	case "":
		c.Open++
	case Keep:
		c.Kept++
	case Revoke:
		c.Revoked++
	case Gone:
		c.Gone++
	}
	switch it.Remediation {
	case Waiting, Executed:
		c.Pending++
	case Failed, ByHand:
		c.Failed++
	}
}
