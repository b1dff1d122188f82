// Package cli is the command line: one file per command, speaking to a server
// only through package client. Listings print a table for people and, with
// -o json, an array of objects with "id" for programs; acts take --reason;
// errors say what to do. Only cmd/countersign imports it.
package cli
