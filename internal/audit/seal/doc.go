// Package seal builds the Merkle tree over the log and signs its heads.
//
// It follows the log: about once a second, when there is something new, one
// replica (a fenced lease) reads each lane on from where it is sealed, checks
// numbering and chain, gives every record the next index of the tree, stores
// tiles (C2SP tlog-tiles) and signs a checkpoint (C2SP tlog-checkpoint). All
// that is one transaction, which holds the lease and moves the one row that
// knows the tree's end, so every record gets one index and two heads of one
// size can never be signed. Recording an event never waits for it.
//
// The newest checkpoint is kept in a file outside the database as well. A
// database that is behind that file, or contradicts it, was restored from an
// old copy or rewritten: nothing is sealed (ErrRolledBack) until a person
// accepts the loss, which starts a new origin and key, so that no key ever
// signs two histories.
//
// Witnesses (C2SP tlog-witness) cosign; one that hangs or lies is shown in
// Status and reported, and delays nothing. Proofs, tiles and checkpoints are
// verified by audit/tlog alone. Only server may import seal.
package seal
