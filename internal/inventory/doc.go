// Package inventory says what there is and what it can touch: agents,
// connections and secrets with owner, age, last use, reach and open findings; and
// an agent's blast radius as a tree.
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
//
// It owns nothing and writes nothing. The server may import inventory.
package inventory
