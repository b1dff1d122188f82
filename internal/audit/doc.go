// Package audit is the ledger: the durable, hash-chained log of everything
// that agents, people and Countersign itself do.
//
// Nothing leaves without it: Intent returns a Receipt, the only value that the
// gateway's forward and the secrets' injection accept, and only this package
// can make one. Administrative changes happen inside Change, which commits a
// change and its event together and refuses a change that recorded nothing.
// Secrets are replaced before anything is written: a Log cannot be opened
// without a Redactor.
//
// Events are appended in lanes. A lane has one committer at a time, fenced by
// an epoch; it takes what is queued, commits it in one transaction with one
// fsync, and acknowledges everything: no timer, no global counter. Each record
// extends its lane's chain: chain = SHA-256(previous chain, lane, sn, leaf),
// where leaf is the RFC 6962 leaf hash of the record's exact bytes, so a Merkle
// tree can be built over the same leaves.
package audit
