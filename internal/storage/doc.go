// Package storage opens the one database behind everything, embedded SQLite
// or PostgreSQL 15+, from one DSN, and keeps its schema.
//
// Rooms write portable SQL: $1 placeholders, ON CONFLICT, RETURNING, row-value
// comparison for keyset paging, BIGINT microseconds for times (Micros, Time),
// TEXT for JSON, application-made identifiers. Native code stands in exactly
// three places: the log's append, job claims and full-text search; they ask
// for Dialect. Migrations carry the same number and meaning in
// migrations/sqlite and migrations/postgres.
//
// What is cached in memory is kept true by a Watcher: a change bumps a named
// version row in its own transaction (Bump), every replica polls those rows
// several times a second, and a replica that cannot (Fresh is false) must
// refuse rather than trust what it remembers.
package storage
