// Package passkeys keeps the passkeys (WebAuthn credentials) that people
// register, and what their browsers are asked to sign.
//
// It promises: a passkey is registered by its own person, in a session of
// theirs, with the person verified by the authenticator; a challenge is good for one
// answer, in the session that asked for it, for a short time, for one purpose;
// a count of signatures that does not grow is refused. What a signature is
// about, and whether it is valid, is for who demanded it: approvals/statement.
//
// approvals asks it through an interface of its own; only server imports it.
package passkeys
