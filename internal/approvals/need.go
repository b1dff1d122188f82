package approvals

import (
	"slices"
	"strings"
	"time"
)

// Need is what one policy demands before a held call may go on. Groups are
// named as the policy names them; Hold finds out which they are.
type Need struct {
	Policy        string        `json:"policy"`
	Groups        []Group       `json:"groups"` // a member of any of them counts
	Quorum        int           `json:"quorum"` // distinct people, at least 1
	Tiers         []Tier        `json:"tiers,omitzero"`
	ExcludeOwner  bool          `json:"exclude_owner,omitzero"`
	DecideWithin  time.Duration `json:"decide_within"`
	ExecuteWithin time.Duration `json:"execute_within"`
	Advice        string        `json:"advice,omitzero"`
	Passkey       bool          `json:"passkey,omitzero"` // whoever approves signs with their passkey
	Server        bool          `json:"server,omitzero"`  // run the call when it is approved, whether or not its client is still there
}

// Group is a group of people, by identifier: one that is deleted and made
// again under its name is another.
type Group struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Tier is a group that may decide too once a request has waited for After.
type Tier struct {
	Group
	After time.Duration `json:"after"`
}

// check refuses a need that would let everything through.
func (n Need) check() error {
	if len(n.Groups) == 0 || n.Quorum < 1 || n.DecideWithin <= 0 || n.ExecuteWithin <= 0 {
		return ErrNeed
	}
	return nil
}

// groupsAt returns who may decide once a request has waited for waited.
func (n Need) groupsAt(waited time.Duration) []Group {
	groups := slices.Clone(n.Groups)
	for _, t := range n.Tiers {
		if waited >= t.After {
			groups = append(groups, t.Group)
		}
	}
	return groups
}

// merge joins the needs of all matching policies: two that ask the same groups
// are met by the same people, as many as the stricter asks for.
func merge(needs []Need) []Need {
	var out []Need
	at := map[string]int{}
	for _, n := range needs {
		key := n.key()
		i, seen := at[key]
		if !seen {
			at[key] = len(out)
			out = append(out, n)
			continue
		}
		m := &out[i]
		m.Policy += ", " + n.Policy
		m.Quorum = max(m.Quorum, n.Quorum)
		m.ExcludeOwner = m.ExcludeOwner || n.ExcludeOwner
		m.Server = m.Server || n.Server
		m.Passkey = m.Passkey || n.Passkey
		m.DecideWithin = min(m.DecideWithin, n.DecideWithin)
		m.ExecuteWithin = min(m.ExecuteWithin, n.ExecuteWithin)
		if n.Advice != "" && !strings.Contains(m.Advice, n.Advice) {
			m.Advice = strings.TrimPrefix(m.Advice+"; "+n.Advice, "; ")
		}
	}
	return out
}

func (n Need) key() string {
	var ids []string
	for _, g := range n.Groups {
		ids = append(ids, g.ID)
	}
	for _, t := range n.Tiers {
		ids = append(ids, t.ID+"@"+t.After.String())
	}
	slices.Sort(ids)
	return strings.Join(ids, "\x00")
}

// met reports whether people can be given to needs so that each need has its
// quorum and nobody fills two places. fits says whether a person counts for a
// need. It is a bipartite matching (augmenting paths): places are few.
func met(needs []Need, people []string, fits func(person string, need int) bool) bool {
	var places []int // place -> need
	for i, n := range needs {
		for range n.Quorum {
			places = append(places, i)
		}
	}
	if len(places) == 0 || len(people) < len(places) {
		return false
	}
	holds := map[string]int{} // person -> place
	var give func(place int, tried map[string]bool) bool
	give = func(place int, tried map[string]bool) bool {
		for _, p := range people {
			if tried[p] || !fits(p, places[place]) {
				continue
			}
			tried[p] = true
			other, taken := holds[p]
			if !taken || give(other, tried) {
				holds[p] = place
				return true
			}
		}
		return false
	}
	for place := range places {
		if !give(place, map[string]bool{}) {
			return false
		}
	}
	return true
}
