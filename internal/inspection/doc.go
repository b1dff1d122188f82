// Package inspection finds in bytes what must not pass unseen: secrets (public
// token formats, values assigned to names such as "password", and every secret that
// Countersign itself holds), data of persons, and the shapes of injection. It is
// pure: bytes in, findings out, no I/O, no clock. It may be imported by any
// package and imports none of ours. docs/inspection.md says what is looked for.
//
// What it promises:
//
//   - A finding has a kind, a rule and a place, never the bytes.
//   - Redact changes no byte outside a finding, returns its argument when there
//     is nothing to hide, is idempotent, and turns valid JSON into valid JSON.
//   - A secret of the Known set is found wherever its bytes stand, and when it
//     is written with JSON escapes (nested JSON too), percent-encoded, in hex,
//     or inside base64 at any alignment. The set holds keyed digests, not values.
//   - A Stream finds the same however its text is cut into pieces.
//   - Time is linear in the input, memory a small multiple of it; decoding ends
//     after maxDepth layers and maxViews texts. A Scanner is safe for concurrent use.
//
// What it does not promise: an agent that wants to smuggle a secret out can
// encrypt it first, and an injection can be worded in a way that no list has.
// Redaction keeps the log from becoming the leak; policy is what stops the agent.
//
// How it is fast: one pass looks at four bytes (folded to lower case) at every
// second place through a bit set of the rarest four of every rule's literal, once
// for an even and once for an odd place; hand-written matchers run only around
// hits, and end at once in prose. Known values are looked for at digits and
// capitals, of which prose has few, as far as they have any. Text with escapes,
// encodings or disguise is decoded into views, each scanned in the same way and
// mapped back; what is far from anything decoded is not in them.
package inspection
