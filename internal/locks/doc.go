// Package locks stops things: an agent, everything of an owner or a team, a
// tool, a connection, one credential, one run, or all calls.
//
// It promises that a lock is checked at use, in memory, from a view that is less
// than a second old, and that a replica whose view may be older refuses
// (ErrStale); that what a lock covers is cut where it is in flight; and that
// every replica says so: a row per replica and lock tells when the last covered
// call was cut there, by the clock of the database, so that whoever placed a
// lock sees how long it took everywhere.
//
// A lock with an expiry stands until the database's clock has passed it and its
// end is recorded: a replica whose clock runs ahead lifts nothing early.
//
// Whoever keeps something that must end with what is locked (calls in flight,
// leases) registers with Enforce. Identity and the gateway ask Check; rooms
// above may import locks, which knows none of them.
package locks
