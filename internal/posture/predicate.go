package posture

import "time"

// How an answer is found.
const (
	Query = "query" // what is stored and was observed
	Probe = "probe" // something is really asked for
	Drill = "drill" // something is really done, to an agent made for it
)

// Predicate is a named, versioned test over the live state.
type Predicate struct {
	ID      string `json:"id"`
	Version int    `json:"version" doc:"one more whenever what it asks changes"`
	Name    string `json:"name"`
	Asks    string `json:"asks"`
	Kind    string `json:"kind" enum:"query,probe,drill"`
	Limits  string `json:"limits" doc:"what it cannot see"`

	good  time.Duration // how long its result counts
	every time.Duration // how often it is asked for by itself
	run   func(*pass) []Check
}

const day = 24 * time.Hour

// predicates are all there are, in their order.
var predicates = []Predicate{
	{"E1", 2, "Observed is registered", "Is everything that called, was called or turned up registered?", Query,
		"Only what passes by here is seen: a program that reaches an upstream by another way is not. There is no register of models or networks: a model is known if a price or a rule names it, a network if it is private or a rule names it.", day, 6 * time.Hour, (*pass).registered},
	{"E2", 1, "One identity, an active owner", "Is every agent one identity, for which an active person answers?", Query,
		"Two copies of a program that share a credential look like one.", day, 6 * time.Hour, (*pass).owned},
	{"E3", 1, "Secrets stay in the broker", "Does no secret stand anywhere but in the store that seals it?", Query,
		"The newest 20,000 records with what was kept of their payloads, and what is registered here, are searched. Code, chats and files elsewhere are not seen; what others find there is reported as a leak.", day, 6 * time.Hour, (*pass).sheltered},
	{"E4", 1, "Credentials end", "Does every credential end, and is every secret replaced in time?", Query,
		"The age of what is kept outside is not known here.", day, 6 * time.Hour, (*pass).ending},
	{"E5", 1, "Least privilege", "Is every right used, narrow, reviewed and free of conflict?", Query,
		"Unused is not unnecessary: what happens once a year looks unused. Conditions of rules are not evaluated, so a right may be smaller than it looks.", day, 6 * time.Hour, (*pass).least},
	{"E6", 1, "Delegation is complete and only shrinks", "Does every call lead to whom it is for, and is what is passed on never more?", Query,
		"Only what passes by here is seen: one agent asking another directly is not.", day, 6 * time.Hour, (*pass).passedOn},
	{"E7", 1, "What must be refused is refused", "Are bad credentials and calls without a right refused at every door?", Probe,
		"Three tools of each connection are asked for. Doors of other systems are not tried.", 3 * day, day, (*pass).refused},
	{"E8", 1, "An end is an end", "Is everything that an agent had gone with it, and refused?", Drill,
		"Only credentials that are kept or brokered here are seen.", 3 * day, day, (*pass).ended},
	{"E9", 1, "What runs was approved", "Are tools, policies and prompts as a person approved them?", Query,
		"A hosted model may change without its definition changing.", day, 6 * time.Hour, (*pass).approved},
	{"E10", 1, "The record is complete", "Does every call have its record and outcome, and does the log verify?", Query,
		"The newest 20,000 records are verified in each run; the self-audit sees the whole once a week. Logs of upstreams are not compared with ours.", day, 6 * time.Hour, (*pass).recorded},
	{"E11", 1, "The record is kept", "Are records kept for at least 183 days?", Query,
		"Copies elsewhere are not seen.", day, 6 * time.Hour, (*pass).retained},
	{"E12", 1, "People can stop it, and approve what they see", "Is a stop in force within a second, and was every approved call executed as it was shown?", Drill,
		"It shows that a stop and an approval work, not that people judge well. A call that is in flight is not part of the drill.", 3 * day, day, (*pass).overseen},
}

// Predicates returns all predicates, in their order.
func Predicates() []Predicate { return predicates }

// IDs returns their identifiers.
func IDs() []string {
	out := make([]string, len(predicates))
	for i, p := range predicates {
		out[i] = p.ID
	}
	return out
}

func find(id string) (Predicate, bool) {
	for _, p := range predicates {
		if p.ID == id {
			return p, true
		}
	}
	return Predicate{}, false
}
