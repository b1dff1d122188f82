// Package findings keeps what is wrong and must be seen by someone: a tool
// whose definition drifted, a policy that no longer validates, an owner who
// left.
//
// Many rooms open findings; a finding is about one object under one rule, and
// while it is open, seeing the same again updates it instead of making another.
// People close them, with a reason; what is still wrong opens a new one. Opening,
// updating and closing are events of the log, committed with the change.
//
// Detail is shown to people and stored as it is: whoever opens a finding MUST
// NOT put secrets or unredacted foreign content into it.
//
// identity and every room above it may import findings; it imports audit,
// storage, rest, fault and id.
package findings
