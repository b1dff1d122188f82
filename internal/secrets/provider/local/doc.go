// Package local finds secrets on the machine of the server: in its environment
// and in files. What may be read is bounded, because whoever may put a secret
// chooses the name: only variables that begin with COUNTERSIGN_SECRET_, and
// only files in one directory, through no link that leaves it.
//
// The server may import local.
package local
