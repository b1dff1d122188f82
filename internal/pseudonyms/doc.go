// Package pseudonyms keeps what stands for a value that a model must not see, and
// the value: [pii:email:7f3k2m9q4x8c1v5b].
//
// The same value of an agent always has the same placeholder, which says nothing
// about it: it is keyed. The value is encrypted with the data key of the agent,
// beside its payloads, and goes with them when they are erased. Whoever invents a
// placeholder, or has one of another agent, gets nothing for it: 80 bits that are
// looked up for the agent that calls. What is not looked up for a month is removed.
//
// gateway and server may import pseudonyms; it imports audit, storage, fault and id.
package pseudonyms
