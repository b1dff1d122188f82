// Package runs knows to which run a call belongs, and whether a model proposed it.
//
// A model's answer that passes the gateway is remembered by what a client sends
// back of it (identifiers of messages and of tool calls, the text that was said)
// and by the tool calls that it proposes. From that follows, for later calls of the
// same agent:
//
//   - Continue: a request that continues an exchange belongs to its run, and what
//     that run has read counts for it, too. What is not known proves nothing: a
//     history that somebody wrote links to nothing.
//   - Match: a tool call was proposed if a recent answer holds a call of the tool
//     with the same arguments. Arguments are the same if they are the same values:
//     neither the order of members nor the way a number is written counts, but
//     nothing is rounded, and a text is only itself. A proposal in which a name
//     stands twice proposes nothing. What has an effect uses its proposal up.
//   - Open: without any of that, a run is what one credential does without a long
//     pause, on every replica alike.
//
// Nothing of what was said is kept: only digests under a key of ours. Rows are
// bounded by age, by agent and by answer; what is over a bound is not remembered,
// so nothing follows from it. A proposal is durable before the agent sees the end
// of it, so that whichever replica it turns to knows; links follow within a
// moment.
//
// gateway and server may import runs; it imports the cellar alone.
package runs
