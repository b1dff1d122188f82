// Package helpdesk is the customer desk of the example business: an MCP server
// over Streamable HTTP on a SQLite database with tickets and orders.
//
// It is an ordinary system of record. It checks its caller's bearer token and
// its tools' arguments, and it knows nothing of agents or policies: whoever
// holds the token may read every order and write an e-mail to anyone. One of
// the seeded tickets ([PoisonedTicket]) carries an instruction for the agent
// that reads it.
//
// Who may import it: internal/example, the command line, and tests.
package helpdesk
