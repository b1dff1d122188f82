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
//
// Every intent has exactly one outcome in the end. Whoever takes over a lane
// records `unknown` for the intents its former holder left open; should that
// holder still live and report later, its word is kept as call.settled. On
// SQLite there is one process, shown by a lock on FILE.lock; on PostgreSQL a
// lane's holder renews a lease, and lanes of the dead are taken again, so their
// number does not grow with restarts.
//
// A store that fails is refused quickly and found again when it recovers. A
// commit whose answer was lost is looked up before anything is written again.
package audit
