// Package stdio carries calls to MCP servers that are processes: it starts one
// child per connection, agent and protocol era, speaks newline-delimited
// JSON-RPC with it, and shows it to the gateway as if it were Streamable HTTP.
//
// Children are shared by the sessions of one agent, never between agents. Ids
// and progress tokens are replaced by splicing, so that sessions cannot collide
// or answer for each other; everything else passes byte for byte. A child's
// environment is minimal plus what its connection says; secrets reach it there,
// against the receipt of the call that starts it, and never on its command
// line. A child that dies fails what was under way, is not asked again for it,
// and starts anew with the next call, after a pause that grows. Its whole
// process group is ended with it.
//
// gateway/mcp and server may import it.
package stdio
