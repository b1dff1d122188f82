// Package posture computes evidence: twelve predicates (E1 to E12) over the live
// state of this installation, each bound to the log.
//
// It promises:
//
//   - A predicate is a named, versioned test. Its result says of how many it
//     looked at how many, what broke it and in which events that shows, what could
//     not be reached, when it was collected and when it expires.
//   - Nothing is not good: without anything to look at, with something that could
//     not be reached, or after its expiry a result is NO_DATA, never PASS.
//   - A test that cannot fail proves nothing: every check is given a violation of
//     its own (a canary), and one that does not catch it is NO_DATA.
//   - What is refused is really asked for, over the network, by a throwaway agent
//     that is registered for it and removed again.
//   - Every run is an event with the digest of each result, so that evidence
//     cannot be changed afterwards.
//
// What a predicate cannot see is said in its limits. It reads other rooms through
// their services and never their tables; it changes nothing in them except for its
// throwaway agent, its lock on that, and findings about what failed.
//
// Package framework says for which requirements which predicate is evidence.
// Only server may import posture.
package posture
