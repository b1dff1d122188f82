// Package wire reads and edits MCP messages without re-serialising them: a
// strict scan that says where the members of a JSON-RPC message lie, byte
// splicing, server-sent events, and the checks that headers say what the body
// says (SEP-2243).
//
// It is pure: no I/O of its own, no state, nothing of ours imported. What it
// reads was written by somebody hostile. A message that two JSON readers could
// understand differently (duplicate names, names that differ only in case from
// one that decides, invalid UTF-8, a second document behind the first) is
// refused, so that policy and upstream see the same call. Only gateway/mcp and
// the packages below it may import it.
package wire
