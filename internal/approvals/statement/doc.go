// Package statement is what is signed about a decision, and how anybody
// verifies later who decided what, with nothing but the log and a public key.
//
// Every decision has a Statement, in canonical form, signed by the server's
// key. Where a passkey was demanded, the statement holds the person's own
// assertion (WebAuthn), whose challenge is derived from what was decided: the
// server cannot have made it up. The statement stands in the event of the
// decision, as detail "statement" beside "signature".
//
// It is pure: it reads nothing and asks nobody. approvals and cli import it.
package statement
