// Package identity knows who calls and who answers for it: users, teams,
// agents, their credentials, and the sessions of people.
//
// It promises that a caller it lets pass is a registered agent with an active
// human owner, under a credential that expires, and that this is decided in
// memory, without the store, from a view that is less than a second old. When
// the view may be older it refuses (ErrStale). Credentials are shown once and
// stored as hashes; every change is an event of the log with who and why,
// committed together with it.
//
// Credentials are of four kinds:
//
//	csk_…  agent key: 32 random bytes, at most 90 days, rotated with overlap
//	csu_…  user token: a login session (12 hours) or a named API token (at most 90 days)
//	JWT    run token: one task of an agent, EdDSA, at most 12 hours, checked without the store
//	JWT    access token: minutes, one audience, issued by the room tokens, ES256
//
// The rooms above (connections, secrets, policy, manifest), the gateway and
// the server may import identity; it imports audit, storage, rest, fault and id.
package identity
