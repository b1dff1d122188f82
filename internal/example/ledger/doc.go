// Package ledger is the accounts payable of the example business: an MCP server
// over stdio on a SQLite database with invoices and payments.
//
// It demands its secret from the environment ([SecretEnv]) and does not start
// without one, as a program with a database password does: so the example shows
// how a secret reaches a child process without standing in its arguments.
//
// It keeps books, not order: it refuses an amount that does not match, a second
// payment and an invoice on hold, but it pays to whatever account it is told.
// Whether this agent may pay this sum at all is a question for policy.
//
// Money is in whole cents, everywhere.
//
// Who may import it: internal/example, the command line, and tests.
package ledger
