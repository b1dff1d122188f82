// Package flow knows where the values of a call come from.
//
// A run gathers what it was told (the words of its user and of its operator) and
// what it read (results of tools, by a trusted or an untrusted source). Once it
// has read untrusted content, anything that it does may have been written by
// whoever wrote that content: so each argument that matters (to whom, to what,
// how much) must be endorsed by something that such a writer cannot choose:
//
//   - the user's or operator's own words, whole and at the borders of words;
//   - a whole value of a result whose source is trusted;
//   - a whole field that the service itself writes (an id, a sender, a
//     participant), of a record that the user's words name;
//   - for an id also: something that this run has made itself.
//
// Everything else is derived or untrusted. What is matched are decoded values,
// never serialised text; the echo of a write endorses nothing but its new id; a
// number in a sentence is not the id of an object. The judgement is a fact for
// policy (context.provenance), which decides what follows from it.
//
// Nothing here asks a model. The engine (Memory) is pure; Service keeps what a
// run gathered in the database, sealed, so that every replica judges alike and a
// restart forgets nothing. What cannot be read back endorses nothing.
//
// connections, gateway, manifest and server may import flow; it imports the
// cellar alone.
package flow
