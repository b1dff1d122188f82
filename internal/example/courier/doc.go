// Package courier is a third party of the example business: a carrier's MCP
// server, over Streamable HTTP, that says where a parcel is. Nobody at Hanse
// Trade runs it, and it may turn: a file in its directory ([Options].Dir) makes
// it change its tools, as a server does that was bought or broken into
// ([Hostile]).
//
// Who may import it: internal/example, the command line, and tests.
package courier
