// Package detection watches the log for what attacks look like, and acts.
//
// It is a follower of the log with rules as data. A rule says in YAML which events
// it watches, what it counts of them, when that is too much, and what is done
// about it; its expressions are compiled and checked when it is read, and have
// no loops. What a rule counts is kept per credential, agent or network in a few
// hundred bytes, and what is normal is learned per agent.
//
// It promises that one replica evaluates; that what was counted is saved in the
// transaction that moves the position in the log, together with the findings and
// acts that follow from it, so that a crash neither loses nor doubles any; that a
// new rule only observes until a person lets it act; that every act is an event
// and can be lifted; and that neither a flood of findings nor of identities makes
// its state or its findings grow without bound.
//
// The engine (Engine) knows neither the database nor the clock: `detection test`,
// a rule's own test cases and the bench run the same one.
//
// The gateway, manifest and the server may import detection.
package detection
