// Package llm is the front for models: it speaks the wire of OpenAI and of
// Anthropic to unmodified clients, turns each request into a call on the line,
// and passes the answer on as it comes.
//
// It promises that policy, the digest and the upstream see the same bytes: the
// body is parsed once, strictly (RFC 8259 with duplicate names, invalid UTF-8,
// trailing data and excessive depth refused), and forwarded as it is. What the
// gateway does not read passes through unknown. A refusal comes in the error
// form of the provider that the client believes it is talking to.
//
// Only server may import it.
package llm
