// Package policy answers one question: may this agent make this call now, with
// these arguments? It keeps Cedar policies and grants, and decides in memory.
//
// What it promises. Default deny: an unknown tool, an argument that cannot be
// read or represented, a replica whose view is stale, and a request nothing
// matches are denied, with a reason a person can act on. A permit or a grant
// allows, a forbid denies, a forbid with @approval holds, and an error while
// evaluating any forbid in scope denies (plain Cedar would skip it and fail
// open). Policies are validated against a schema generated from the registered
// tools, so a typo in an argument's name is refused when it is saved; a saved
// policy that no longer fits a tool denies that tool rather than being skipped.
// The cost of a decision does not grow with policies that do not concern the
// call. Every decision names the policies and grants that determined it.
//
// The arguments a policy sees are read by one strict JSON reader: duplicate
// names, invalid UTF-8 and trailing data are refused.
//
// Only this package knows Cedar; its experimental parts (schema, validator) are
// used in schema.go and check.go alone. The gateway, manifest and server may
// import it.
package policy
