// Package rotation replaces the values of secrets by new ones, at the provider
// and here, in four steps that each may be repeated:
//
//   - create: a new value is made and kept as the pending version;
//   - set: the provider accepts it;
//   - test: it is tried;
//   - finish: it becomes the current version. What it replaced is retired at
//     the provider after the overlap, at once if it leaked.
//
// The step to do next is in the database, changed together with what the step
// did, so that whoever finds a rotation goes on where it stands: a process that
// was killed at any instant leaves nothing that a later one does not finish. One
// replica at a time works, under a fenced lease. Whether a step took effect at
// the provider when its answer was lost, the step finds out itself: rotators
// must be idempotent under the rotation's token.
//
// Until finish, the former value stays current; after it, the new one is. A
// rotation that fails for good drops its pending version, and the next begins
// anew. What must not live at the provider any more stands in a list of its own
// and is retired until that works.
//
// The server may import rotation. Rotators are in secrets/provider.
package rotation
