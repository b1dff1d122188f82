// Package connections keeps what agents may reach: connections (registered
// upstreams), their tools, and the pins that hold each tool to the definition
// a person accepted.
//
// It promises:
//
//   - A tool is pinned by the SHA-256 of its whole definition. What an upstream
//     says later is compared with the pin (Observe). A changed tool is drifted
//     and a tool nobody accepted is new; neither may be called, and a finding
//     says so, until a person accepts exactly the definition they looked at.
//   - Nothing an upstream says lowers an effect. A discovered tool is
//     irreversible until a person says otherwise; annotations of a definition
//     accepted later may raise what the person said.
//   - Everything on the way of a call (Connection, Tool, Tools, ToolTypes,
//     Observe of an unchanged list) is answered from memory, without the store.
//   - A connection's URL, command and environment are checked when they are
//     registered: TLS unless the address is private and said to be, no
//     credential in a URL, an argument or the environment.
//
// The gateway, the manifest and the server may import it.
package connections
