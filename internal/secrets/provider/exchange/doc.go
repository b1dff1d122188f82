// Package exchange makes credentials at token endpoints, for which no key needs
// to be stored, or one that itself is never sent to the upstream: OAuth client
// credentials (RFC 6749 section 4.4), installation tokens of a GitHub App, and
// workload identity federation, where our own issuer's token is exchanged
// (RFC 7523, RFC 8693, and AWS STS).
//
// Each is a secrets.Minter: what it makes is kept in memory until it ends. The
// server may import exchange.
package exchange
