// Package tlog is the proof: the Merkle tree of RFC 6962, its C2SP formats
// (tlog-tiles, tlog-checkpoint, tlog-cosignature, tlog-proof, signed-note), and
// verifiers for everything that Countersign hands out: a proof file, an
// exported log, a directory of tiles, a live server.
//
// It is what an auditor runs without us, so it is pure (no clock, no network,
// no files but those handed in), trusts nothing it reads, and says of every
// failure where it is and what is wrong (Error). It imports the standard
// library and golang.org/x/mod/sumdb/note only; docs/proof-format.md says
// enough to write a second one, and testdata/vectors to test it. Any package
// may import tlog; it imports nothing of ours.
package tlog
