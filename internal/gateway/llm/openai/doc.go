// Package openai knows the OpenAI wire format as far as the gateway reads it:
// which fields of a request policy decides on, where in the bytes the prompt
// stands, what an answer says about its use of tokens and about failure, and
// what an error looks like. It models nothing else: what it does not read
// passes through untouched, and it never writes a body it was given.
//
// It is pure: bytes in, values out. Only gateway/llm may import it.
package openai
