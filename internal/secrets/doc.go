// Package secrets keeps the credentials of upstreams: sealed in the store,
// bound to one connection and to the hosts they may be sent to, and opened
// into a request only for a call whose intent is durable.
//
// It promises:
//
//   - A value is stored only sealed (Tink AEAD, AES-256-GCM), with its name,
//     identifier, version, connection and hosts as associated data: rows of the
//     database cannot be swapped, copied or redirected.
//   - The keyset that seals is itself sealed, by a key file (mode 0600) or a
//     gocloud.dev/secrets URL; neither is ever in the database.
//   - Inject gives a value only for a valid audit.Receipt of that very call,
//     the secret's own connection and an allowed host.
//   - A Value prints as [redacted] whatever prints it.
//   - Every value is made known to the Matcher, which redacts the log, before
//     it is stored or used.
//   - Putting and deleting are events, with who and why and never the value.
//   - The key outside and the keyset's key are replaced while the server works
//     (Rekeyer); no value is ever sealed under a key that is gone.
//
// Derive gives other rooms keys that are stable over restarts and replicas.
//
// The gateway, manifest and server may import secrets. Only the gateway's
// forwarding, the start of a stdio child and provider code may call
// Value.Expose.
package secrets
