// Package backup copies the whole database out, encrypted, while the server
// works, and fills an empty one from such a copy.
//
// It promises:
//
//   - A backup is one consistent view (one transaction on either engine), leaves
//     only as an age file for the recipients given, is never in plain on a disk,
//     and says at its end what it holds.
//   - The keys that open it are in it, under a key of its own; the key outside
//     the database is not. Restored, they are sealed with the new server's key.
//   - It can be restored on the other engine. What is derived from the log (the
//     search index) is not in it.
//   - A restored database revokes nothing and rotates nothing, lets no call
//     through and seals nothing, until a person resumes: another server may still
//     be at work with what it holds.
//
// Taking one and resuming are events. The server may import backup; archive, the
// form of the file, anybody.
package backup
