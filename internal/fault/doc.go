// Package fault gives every error that may reach a person or a client a kind,
// a stable code and a sentence that says what to do.
//
// Rooms declare their sentinels with New and wrap causes with With. Doors map
// a Kind to an HTTP status, a JSON-RPC error or an exit code, once each. An
// error without a fault in its chain is shown as "internal" and logged: its
// text may hold anything and never leaves the process. Any package may import
// fault; it imports nothing of ours.
package fault
