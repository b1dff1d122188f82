// Package operation describes one operation of an HTTP API: which requests are
// it, and what of them policy reads.
//
// An Operation is what a tool of an http connection is pinned by. It is listed
// by a person as a line (Parse) or read out of an OpenAPI document
// (connections/openapi). Match finds the one operation that a request is.
//
// It promises:
//
//   - One reading of a path. A segment that two readers could read in two ways
//     (an escape that is not needed, an escaped slash, a dot segment, another
//     case of a fixed name, a matrix parameter) matches nothing.
//   - A request is at most one operation: two that could be meant by the same
//     request match neither.
//
// It is pure: no store, no network. Rooms that know connections may import it.
package operation
