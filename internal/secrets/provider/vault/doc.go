// Package vault finds secrets in a Vault or OpenBao server: KV version 2,
// logged in by a token or an approle, in a namespace. It speaks the HTTP API.
//
// Where the server is and how to log in the operator says in this server's
// configuration; who may put a secret chooses path and field alone, beneath the
// mounts that the configuration allows.
//
// The server may import vault.
package vault
