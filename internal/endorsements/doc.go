// Package endorsements keeps what people endorsed beforehand, so that the same
// question is not put to them again:
//
//   - a counterparty: a recipient of a call of an agent and tool that people
//     approved and that succeeded. It endorses that value in later calls of the
//     agent and tool, until it expires or is revoked;
//   - the scope of a run: tools with values of their arguments, said by who starts
//     the run with a person's credentials, or by who approved a held call of it for
//     the rest of the run;
//   - a stated scope: what the application or the agent says beforehand that a run
//     will do, and people approved. Held calls inside it are made without asking, as
//     often as it says (Lift).
//
// Nothing in here is in force because an agent or a model said so: counterparties
// and stated scopes are what people approved, other scopes are given through the
// API, which no agent's credential opens.
// Values are sealed; they are found by keyed digests. A counterparty is bound to the
// agent's identifier and to how the connection is reached: another agent of the
// same name, or another server under it, begins with none.
//
// gateway and server may import endorsements; it imports approvals, flow, audit,
// storage, rest, fault and id.
package endorsements
