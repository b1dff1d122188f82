// Package tokens is the issuer of short-lived credentials: an agent proves what
// it is and gets a token for minutes and for one audience.
//
// It proves itself by a registered public key (private_key_jwt, RFC 7523), by a
// token of an issuer that a trust rule names (GitHub Actions, Kubernetes,
// SPIFFE, any OpenID provider), by a code that a person approved (enrolment,
// in the manner of RFC 8628), or, for clients that a person drives, by that
// person's consent (authorization code with PKCE, as MCP asks). A token can be
// exchanged for another (RFC 8693): for a sub-agent, or for less. Scope,
// audience and lifetime only shrink on the way, and the chain of principals is
// bounded.
//
// It promises that a token is good only at the resources it names (RFC 8707);
// that it dies with everyone and everything it descends from: the agents and
// the user of its chain, the key, rule, session, run or token it came from; that
// checking it touches neither store nor network (identity.Verifier); that an
// unknown issuer is never asked anything, and a known one not more often than
// its keys can change; and that every issue and every refusal is an event.
//
// Package oauth beneath it is its door: the OAuth wire over HTTP. Package
// remote fetches documents from outside. manifest and server may import tokens;
// it imports identity and what that may import.
package tokens
