// Package incident gathers what belongs to an incident: runs, credentials, touched
// business objects, decisions, approvals and the order of events, out of the log;
// what the agents could touch; and how it would be undone.
//
// It promises that the account is computed from the log whenever it is looked at, so
// it is in step while the incident is open, and ends with it; that contents of calls
// are shown only to who may see them, each time recorded before it is; and that an
// exported incident is one file that anybody verifies by the log's key alone.
//
// Only the server may import incident; it reads findings, inventory, undo and the
// ledger, and changes nothing but its own notes.
package incident
