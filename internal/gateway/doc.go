// Package gateway is the line: the one way of a call from an agent to an
// upstream, the same for every front.
//
// A front (gateway/llm, gateway/mcp) turns a wire request into an Incoming and
// a Call, and the Answer or Refusal back into the wire. It adds no step of its
// own. Serve keeps the order: authenticate, parse, decide, approve, record,
// forward, record the outcome. The order is enforced by types: forward takes an
// audit.Receipt, which exists only for a durable intent, and an upstream's
// secret is injected by forward alone.
//
// It promises that nothing is forwarded which was not decided and recorded,
// that every intent gets exactly one outcome, and that whatever cannot be
// understood, decided or recorded is refused.
//
// Only its fronts and server may import it.
package gateway
