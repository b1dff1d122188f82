// Package wire is how providers are spoken to over HTTP: TLS, no proxies from
// the environment, no redirects, bounded answers, addresses checked when they
// are dialled. Only packages of secrets/provider, and channels/send, may import it.
package wire
