package runs

import (
	"encoding/json/jsontext"
	"time"
)

// Limits on what is remembered.
const (
	// Fresh is how long after a model's answer a call of it counts as proposed.
	Fresh = time.Hour
	// Keep is how long a conversation may rest and still be continued.
	Keep = 12 * time.Hour

	// MaxProposals is how many tool calls of one answer are remembered.
	MaxProposals = 64
	// MaxLinks is how many links of one answer, or of one request, count.
	MaxLinks = 64

	maxMinute = 6_000  // rows that one agent may add in a minute on one replica
	maxAgent  = 20_000 // rows of one agent that are kept, the newest
	maxUntil  = 7 * 24 * time.Hour
)

// Exchange is a call to a model: whose, in which run, and under which name what
// the run has read is kept.
type Exchange struct {
	Agent, Run, Memory, Call string
}

// Proposal is a tool call as a model's answer proposes it.
type Proposal struct {
	Tool string // as the model was told
	Args jsontext.Value
}

// Link is something by which a later request can be seen to continue an
// exchange: what Kind of thing, and the thing itself.
type Link struct{ Kind, Text string }

// Kinds of links.
const (
	LinkCall   = "call"   // the identifier of a tool call
	LinkAnswer = "answer" // the identifier of an answer, or of a message in it
	LinkText   = "text"   // what was said before, and what the model said to that
)

// MinID is the length below which an identifier may be anybody's.
const MinID = 12 // bytes

// Thread is what a request continues. The zero Thread continues nothing.
type Thread struct {
	Run    string
	Others []string // names of the memories of every run that its links lead to
}

// Query asks whether a tool call was proposed.
type Query struct {
	Agent string
	Run   string   // if not empty, the proposal must be of this run
	Names []string // under which the model may know the tool
	Args  jsontext.Value
	// Claim, if not empty, is the call that uses the proposal up.
	Claim string
	// Near asks only what this process remembers.
	Near bool
}

// Match is the proposal of a tool call.
type Match struct {
	Exchange
	ID    string
	claim string
}

// Opened is a run that was derived from a credential and time.
type Opened struct {
	Run     string
	Started time.Time
}
