// Package inventory says what there is and what it can touch: agents,
// connections and secrets with owner, age, last use, reach and open findings; an
// agent's blast radius as a tree; and what is registered against what was
// observed.
//
// It promises:
//
//   - Reach is an over-approximation, "may, under conditions": rules are matched
//     by their scope and their conditions are not evaluated. Nothing that could
//     be reached is left out; what is shown may still be refused.
//   - The work is bounded: one look at rules per agent and tool, in memory; one
//     query each for what is stored. BenchmarkInventory in server asks for a
//     thousand agents by a hundred tools over the API: 123 ms (median of 20, two
//     busy cores).
//   - What was observed is read from the log, all of it and each record once; a
//     row is kept for each thing, derived from the log as the search index is. Who
//     invents names fills a hundred rows of a kind, and a kind has five thousand:
//     what is left out is counted, by who showed it, and is itself an entry of the
//     difference. What is registered needs no room.
//   - Difference and posture's E1 are the same entries (Observed).
//
// It writes nothing but those rows and what somebody sets aside, which is an
// event. The server and posture may import inventory.
package inventory
