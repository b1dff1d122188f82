// Package approvals lets people decide about held calls.
//
// A request is bound to one exact call: the bytes that policy read and that
// would go out, the agent, the principal chain, the tool's accepted definition,
// the connection and the version of the policies (Binding). Any change makes
// another request. It promises:
//
//   - a request is executed at most once, and only while the people who approved
//     it are still entitled, everything it is bound to is unchanged and its two
//     clocks (decide by, execute by) have not run out;
//   - nobody approves their own: whoever is in the principal chain, whoever
//     started the run and, where the policy says so, the agent's owner is
//     excluded; one person counts once, however many groups they are in;
//   - a request that nobody could approve is refused at once;
//   - every transition is an event of the log, committed with it, and every
//     decision is signed by the server's key over the request's digest;
//   - requests live in the database: waiting holds no worker, any replica may
//     answer, and a restart loses nothing.
//
// The states and what may follow what are in state.go, and nowhere else.
//
// The gateway and the server may import approvals; it imports identity,
// findings and what is below.
package approvals
