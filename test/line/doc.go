// Package line builds the whole line for tests: every real room on a fresh
// database, the gateway and its model front behind a real HTTP server. Nothing
// of ours is replaced; what is decided is real Cedar, what is recorded is the
// real log. Only tests may import it.
package line
