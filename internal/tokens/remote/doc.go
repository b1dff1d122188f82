// Package remote fetches documents from outside for the room tokens: keys of
// issuers, metadata of clients. It asks by https alone, follows no redirect,
// uses no proxy, bounds time and size, and refuses addresses that are private
// unless the caller allows them, and those of cloud metadata services always,
// checked on the address that is dialled. Only tokens and server may import it.
package remote
