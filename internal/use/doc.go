// Package use knows what agents use of what they may.
//
// It follows the log and keeps, for each day, agent, tool and grant or policy
// that determined calls: how often calls were allowed, denied and held, when
// first and last, and what values the arguments had that a rule of the agent
// asks for: numbers as a range, texts as a set of at most twenty. Values that
// were redacted are never kept, and what is kept of values is encrypted.
//
// A day's rows are written once, when it is over, in the transaction that moves
// the position; every replica gathers what is younger in memory. So a call
// costs nothing, a pair costs one row a day, a crash loses nothing, and reading
// the log again (Rebuild) gives the same. What is erased from the log is erased
// here in the same transaction.
//
// Since says since when it is watched: what was not used since then was not
// used; of what was before nothing is said. Only server may import use.
package use
