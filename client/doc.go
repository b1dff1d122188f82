// Package client is the Go client of Countersign's API (/api/v1). The command
// line speaks only through it. Every method takes a context, sends the reason
// set with WithReason along with what it changes, and returns *Error for an
// answer that is not a success.
package client
