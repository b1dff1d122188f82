// Package postgres makes, changes and ends the credentials of PostgreSQL roles:
// a Rotator that alternates between two users, so that the one in use is never
// changed; and roles that live for one lease.
//
// Passwords reach the server as SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677),
// computed here, so that no server log, statement view or extension sees one.
// Errors hold what the server said, never a connection string.
//
// A role made for a lease has the rights of the group roles that it is put into
// and nothing of its own: no entry in any object's access list, so that many
// leases cannot fill the catalog. Its end is verified by its effect: a login
// with its credential must be refused.
//
// The server may import postgres.
package postgres
