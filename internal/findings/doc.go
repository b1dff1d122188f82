// Package findings keeps what is wrong and must be seen by someone: a tool
// whose definition drifted, a policy that no longer validates, an owner who
// left.
//
// Many rooms open findings; a finding is about one object under one rule, and
// while it is open, seeing the same again counts and updates it instead of making
// another, so that a flood is one finding. People close findings, with a reason;
// what is seen again reopens them. What they do not want to hear of until a date
// they mute: it is made and counted as ever. What people do is an event of the
// log, committed with the change; so is that a finding opened, came back or
// became worse, and of what is merely seen again each doubling.
//
// Detail is shown to people and stored as it is: whoever opens a finding MUST
// NOT put secrets or unredacted foreign content into it.
//
// identity and every room above it may import findings; it imports audit,
// storage, rest, fault and id.
package findings
