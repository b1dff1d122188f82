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
// Payloads stand beside events, encrypted (AES-256-GCM, bound to event and
// name) under a key per agent or, when it is known, per person they are about;
// those keys are sealed by the log's, and that by a Keeper whose key is outside
// the database. An event holds a salted commitment to each, and the salt is
// encrypted too, so that nothing can be guessed from what an erasure leaves.
// Erase destroys keys or bodies, Expire what is older than the retention, both
// as events; a legal hold stops both. Verify names a payload that is gone
// without an event that says why. What was recorded in plain, before there were
// keys, is encrypted in the background.
//
// Erasing a key cannot reach copies of the database made before. One key must
// not encrypt more than 2^32 payloads (NIST SP 800-38D, random nonces).
//
// A store that fails is refused quickly and found again when it recovers. A
// commit whose answer was lost is looked up before anything is written again.
package audit
