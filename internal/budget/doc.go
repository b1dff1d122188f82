// Package budget bounds what agents use: calls, effects, tokens and money, per
// agent, team, tool, run and period.
//
// It promises that what a call may use is reserved in the database before the
// call goes out and settled with what it used after, so that no number of
// concurrent calls on any number of replicas goes over a hard limit; that a
// budget which cannot be seen or written refuses; that a reservation is settled
// once, by its call or by whoever finds it after its process died; that the
// periods begin and end by the database's clock, for all replicas at once; and
// that an agent without a budget pays nothing.
//
// What a call may use at most is reckoned from its request: a byte is at least a
// token, and an answer has at most the tokens that it asks for (or that the model
// can give). Prices are data with a date and a source (prices.json, and those that
// administrators set); a model without one counts at the dearest that is known.
//
// The gateway, manifest and the server may import budget; it imports findings,
// the ledger and the cellar.
package budget
