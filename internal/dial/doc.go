// Package dial opens connections to addresses that others chose: upstreams,
// providers, issuers, metadata documents. It is the one place that decides to
// which addresses Countersign may connect.
//
// A Dialer resolves a name once, checks every address that it means and dials
// the very address that it checked, so that a name cannot change its meaning in
// between (DNS rebinding). Without a word from whoever set the connection up,
// only addresses of the public internet are dialled; the addresses at which
// clouds hand out a machine's own credentials are never dialled. Any package may
// import dial; it imports nothing of ours.
package dial
