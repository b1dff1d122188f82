// Package egress is the front for HTTP APIs: /http/{connection}/... is the API
// of that connection, as its own clients know it.
//
// Each request is one operation of the connection (operation.Match), and so one
// tool: what matches none is refused. What policy reads of it (the parameters of
// path and query, declared headers, a JSON body, the fields and the files'
// names of a form) is read once, strictly, and exactly the bytes that were read
// are forwarded. A body that policy reads must fit a limit; a file that is
// larger, or content that policy does not read, is streamed and hashed as it
// goes. With the dialect git, a request is a fetch or a push and its arguments
// are the refs and what becomes of each.
//
// A WebSocket is one call. Each of its messages is read whole, counted and
// hashed on its way, and it is cut like any stream when a lock falls.
//
// It adds no step to the way of a call. Only server may import it.
package egress
