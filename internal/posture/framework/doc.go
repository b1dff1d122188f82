// Package framework knows the requirements of the frameworks that a buyer or an
// auditor names, and which predicate of ours is evidence for which of them.
//
// All of it is data, embedded (data/, with what is known of each file's licence
// in data/LICENSES.md). It promises that every identifier and title in the
// mapping exists in the catalog: Lint says what does not, and a test asks it.
// Identifiers are taken in the spellings that people use, and what was made of
// one is said openly (Resolve).
//
// It imports nothing of ours. posture and cli may import it.
package framework
