// Package upstream is a counterparty for tests: a real HTTP server that stands
// where a provider would, writes down everything it receives, and misbehaves on
// request. Only tests may import it.
package upstream
