// Package model is the scripted model provider of the example business: a real
// HTTP server that speaks the OpenAI wire format (chat completions, responses,
// embeddings, models) and the Anthropic one (messages, count_tokens, models),
// streaming and not, tools included. Everything about it is real except the
// mind: what it answers is decided by small deterministic scripts that read the
// conversation and choose the next step as a plausible model would.
//
// It promises three things that a test or a demonstration can lean on:
//
//   - The same conversation gives the same answer, byte for byte, apart from the
//     time stamp (see [Options.Now]).
//   - It can be hijacked. An instruction that stands in a tool result and speaks
//     to the assistant is obeyed, as real models too often do: the tool it names
//     is called with the arguments it gives. Stopping that is the work of policy,
//     not of this model.
//   - It demands its own API key, in the provider's own way, and remembers what
//     it received (GET /_requests), so that anyone can check whose credential
//     arrived and that nothing arrived that was not logged before.
//
// # Models for tests
//
// A model name that begins with "test-" answers without a script and bends the
// wire instead. The presets can be refined by a query string behind the name,
// for example "test-slow?chunks=3&delay=5ms":
//
//	test-echo       the last user text comes back
//	test-size       size=N bytes of text (default 1024) in chunks=N pieces
//	test-big        one MiB of text
//	test-slow       20 pieces, 100 ms apart
//	test-endless    a stream that never ends until the client leaves
//	test-hang       accepts the request and never answers
//	test-reset      breaks the connection in the middle of the answer
//	test-garbage    200 with something that is not JSON
//	test-error      status=N (default 500) in the provider's error shape
//	test-error200   200 with an error inside (streaming: an error event midway)
//	test-tool       calls the first tool offered with args={...} (default {})
//
// Who may import it: internal/example, the command line, and tests.
package model
