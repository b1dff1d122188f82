// Package mcp is the front for Model Context Protocol clients: /mcp/{connection}
// is one upstream with its names untouched, /mcp is everything an agent may use
// under connection__tool. Both protocol eras are served on one endpoint:
// 2025-11-25 and older (initialize, sessions, a GET stream) and 2026-07-28
// (stateless, server/discover, subscriptions/listen).
//
// Messages are passed on byte for byte; nothing is decoded into types and
// encoded again. What has to change (lists that an agent may see only in part,
// ids, cache scopes) is spliced. Every message to an upstream is a Call through
// gateway.Serve: tools/call under the tool's own name with its arguments, every
// other method as the protocol tool "mcp:<method>". The plumbing of the
// protocol (initialize, lists, notifications...) is allowed to an agent that may
// use anything on the connection, unless a policy forbids it; reading a resource,
// getting a prompt and completing an argument are decided like tools.
//
// It promises: a tool whose definition is not the accepted one is neither shown
// nor called; an unknown tool and one that the agent may not see look alike; a
// session belongs to the agent and connection it was made for; lists are marked
// private to caches.
//
// Only server may import it.
package mcp
