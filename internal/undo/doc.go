// Package undo takes back what calls did: by the compensation that their tool
// declares, in reverse order.
//
// It promises that a plan is shown before anything is done and is what is done;
// that a compensation goes through the line like any call, in the name of the
// agent and the person who undoes; that a saga goes on after any crash, on any
// replica; that no call is compensated twice: the identifier of a compensating
// call is durable before it goes out, what became of it is looked up in the log,
// and where nobody knows, the declared read is asked before anything is repeated;
// and that what cannot be undone is listed with the reason.
//
// Only the server may import undo; it imports connections, the ledger and the cellar.
package undo
