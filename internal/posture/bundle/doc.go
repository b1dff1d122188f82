// Package bundle is the form in which evidence leaves: one file, a tar archive,
// that anybody verifies with the log's public key alone, without network.
//
// It promises:
//
//   - Every byte of a bundle is covered: of each file the exact bytes, its header
//     included, by a digest under one signature; the signature by itself. A change
//     anywhere is refused, and where it is is said.
//   - The signing key follows from the log's: the bundle has the proof of the event
//     in which the log says which key signs evidence.
//   - Each result is in the log: the bundle has the proof of the event of its run,
//     which holds the result's digest.
//
// It is pure: no store, no network. posture, incident and cli may import it.
package bundle
