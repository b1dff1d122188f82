// Package argschema checks the arguments of a call against the JSON Schema that
// its tool lists (drafts 4 to 2020-12, as far as they say what arguments may be).
//
// Both sides are hostile: a server writes the schema, an agent the arguments. So a
// check ends after a number of steps, however the schema refers to itself; nothing
// is ever fetched: a reference to another document cannot be checked, and refuses
// the call; patterns are matched in linear time (what only a backtracking matcher
// could match is not checked, and said: Unchecked); numbers are compared exactly,
// within bounds. What is wrong is said by place and rule, never by value.
//
// It is pure: bytes in, a sentence out.
package argschema
