// Package leaks answers to credentials that turn up where they do not belong:
// in a repository, a paste, a report of a scanner, or in the hands of a thief.
//
// It promises that a reported value is compared by keyed digest and never stored,
// logged or repeated; that a credential of ours is revoked and locked, so that
// its calls in flight are cut on every replica, in one change with the finding
// that its owner sees; that an upstream's secret is rotated where it can be, and
// is a critical finding where it cannot; and that reporting tells nobody who may
// not know anyway whether a guess was right.
//
// Canaries are credentials that nobody uses, put where a thief would look. Any
// use is an incident, and is refused like that of an unknown credential.
//
// It stands above identity, locks and findings; only server and the gateway's
// hooks reach it.
package leaks
