// Package idp is an OpenID provider for tests: authorization code with PKCE,
// refresh tokens that rotate, userinfo and the device flow, over TLS under an
// authority of its own. It signs in whomever the test says, without asking, and
// misbehaves on request. Only tests may import it.
package idp
