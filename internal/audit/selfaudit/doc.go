// Package selfaudit has the ledger look at itself: whether the log is what was
// written and its payloads match their commitments, whether the Merkle tree, its
// tiles and checkpoints are those of the log, whether the search index is, and
// whether every call that was let out has its one outcome.
//
// It looks slice by slice, so that nothing is held for long: a person walks the
// whole (countersign doctor --deep), and once an hour one replica goes on from
// where it stopped, so that the whole is seen about once a week, and again from
// the beginning. What it finds says what and where, and becomes a finding.
//
// It believes what is stored before a slice; an auditor with a checkpoint from
// elsewhere needs not (audit/tlog). Only server may import selfaudit.
package selfaudit
