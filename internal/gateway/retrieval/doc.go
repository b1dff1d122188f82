// Package retrieval is the front for bodies of documents (connections of kind
// retrieval): /retrieve/{connection}, and what carries their calls to the engine.
//
// A call goes the way of all calls: authenticated, decided on its arguments,
// recorded, and only then carried. It promises of every answer:
//
//   - A document is in it only if one of its readers is who the agent acts for:
//     the user at the head of the principal chain, their groups or teams, or
//     everyone; without a user, the agent itself. The engine is asked for those
//     alone where it can be, and every result is looked at again: an engine that
//     lies about what it was asked shows nothing more.
//   - A policy that forbids the tool "document" for what the document is hides it
//     from the agent, and from every agent that it acts through.
//   - It says nothing of other documents: there are no scores, totals, facets or
//     pages, and one that may not be read is answered for as one that is not
//     there, to the byte.
//   - Before the agent sees a document its id and digest are handed to the log,
//     and the run has the label of its source and classification.
//
// An engine's own words never reach an agent: what fails, fails in ours.
package retrieval
