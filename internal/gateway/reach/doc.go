// Package reach shows what a connector's own identity could do, beside what agents
// used of it: an upstream's credential is an identity too, and usually a mightier
// one than what is let through shows.
//
// It promises:
//
//   - What is shown was told by the upstream, for this credential, just now, or is
//     marked as known from elsewhere. What no protocol tells stands in Unknown; it
//     is never guessed.
//   - Asking changes nothing: only requests that read, in the name of who asks, and
//     recorded before the first of them leaves (gateway.Reach).
//   - An upstream's answers are hostile: bounded in size, number and time, strictly
//     parsed, redacted.
//
// It stores nothing. Retrieval engines are asked by gateway/retrieval, MCP servers
// by gateway/mcp. gateway/retrieval and server may import reach; it imports
// gateway, connections, use, audit, rest and fault.
package reach
