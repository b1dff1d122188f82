// Package export carries the log to the systems of others: as OCSF 1.8 JSON
// Lines to a directory from which any lake or SIEM takes them, and as OTLP logs
// and traces to an OpenTelemetry collector.
//
// Each target is a follower with a position per lane in the database. What was
// delivered is delivered at least once: the position is stored after the
// target has acknowledged, and identifiers (of logs, traces and spans) are
// derived from the event's, so that a receiver recognises what it has. Files
// are written so that no line is torn or repeated (files.go). On PostgreSQL one
// replica at a time sends to a target, under a lease. A target that is down is
// tried again for ever, with growing pauses; one that refuses an event stops
// there and says so, until a person resumes it or skips the event, on the
// record. Nothing is dropped silently.
//
// An event is what the log holds, secrets replaced. Payloads (prompts, answers,
// arguments, results) leave only to a target that asks for them, as they are
// stored: what left cannot be erased here any more.
//
// The mappings are pure: class.go says which OCSF class an event type is,
// ocsf.go and otlp.go make the objects, names.go alone holds the names of the
// OpenTelemetry conventions. The room belongs to the ledger: it may import
// audit, rest, job, storage, fault and id, and knows no other room. Only server
// may import export.
package export
