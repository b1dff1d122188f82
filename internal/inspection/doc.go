// Package inspection finds secrets in bytes: public token formats, values
// assigned to names such as "password", and every secret that Countersign
// itself holds. It is pure: bytes in, findings out, no I/O, no clock. It may
// be imported by any package and imports none of ours.
//
// What it promises:
//
//   - Redact changes no byte outside a finding, returns its argument when there
//     is nothing to hide, is idempotent, and turns valid JSON into valid JSON.
//   - A secret of the Known set is found wherever its bytes stand, and when it
//     is written with JSON escapes (nested JSON too), percent-encoded, in hex,
//     or inside base64 at any alignment. The set holds keyed digests, not values.
//   - Time is linear in the input. A Scanner is safe for concurrent use.
//
// What it does not promise: an agent that wants to smuggle a secret out can
// encrypt it first. Redaction keeps the log from becoming the leak; policy is
// what stops the agent.
//
// How it is fast: one pass looks at every four bytes (folded to lower case)
// through a bit set of the beginnings of all rules; hand-written matchers run
// only around hits. Text with escapes is decoded into views, at most maxViews
// of them, each scanned in the same way and mapped back.
package inspection
