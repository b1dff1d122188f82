// Package id makes the identifiers of everything Countersign names.
//
// An identifier is a prefix that says what it names, an underscore and the 26
// characters of a UUIDv7 (RFC 9562) in Crockford's base 32, lower case: unique
// without coordination, sortable by the time it was made, safe in URLs, file
// names and shells. Any package may import id; it imports nothing of ours.
package id
