// Package releases keeps what agents are made of, and what of it is in force.
//
// A release pins an agent's models, system prompts and tools (by the definition
// that a person accepted), and keeps its grants and policies with their text. It is
// numbered per agent and never changed. The line asks Check on every call: an
// agent with a release in force is refused what lies outside it; one without is
// in development and goes on as policy says. Check works in memory, from a view
// that the storage.Watcher renews on every replica.
//
// A promotion makes a release the one in force, for all runs or, as a canary,
// for a share of them. Above development it passes the readiness gate and needs
// another person. A rollback returns pins, grants and the agent's own policies in
// one transaction. A canary whose signals are bad is rolled back by itself: a
// follower of the log judges it, the same on whichever replica it runs.
//
// The gateway and server may import it.
package releases
