// Command containment measures whether a hijacked agent can do harm, and what
// that costs honest work. It replays recorded sessions (data/) through a real
// server as a fully hijacked agent would: the user's calls and, right after the
// first answer that carries an injection, every injected call; the user's prompt
// goes to the model first, as any application sends it. Tools' owners declare of
// each tool what its annotation says, mechanically; one policy decides: the
// containment pack.
//
//	go run ./containment [-data DIR] [-bin bin/countersign] [-v]
package main
