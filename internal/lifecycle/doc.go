// Package lifecycle sees to it that no agent outlives the people who answer for
// it, or its use.
//
// It promises: when the owner of an agent leaves (is disabled, or lost by the
// identity provider), then in the same transaction a clock begins. Agents in
// production are suspended at once; for others, and for production if that is
// configured, the active backup owner answers until a deadline, and the agent
// is suspended when it passes. Without an active backup the agent makes no call
// from the moment its owner left. The backup accepts, or the owner comes back,
// and the agent works again. Agents that nobody uses are announced and then
// suspended. A decommission ends everything an agent had in one transaction and
// is then proved: credentials that worked before are tried at every door it had,
// and one that is let through is a critical finding and a lock.
//
// Every step is an event and, where somebody has to do something, a finding.
// The clock runs on one replica at a time (a fenced lease) and may be killed
// anywhere: what is due is in the store.
//
// It is a room of its own because it spans rooms that do not know each other:
// what a decommission ends in each of them is a Part that the server hands over.
// It imports identity, locks, findings and what lies beneath; only server may
// import it.
package lifecycle
