// Package search finds events: by fields, by time and by the words of events
// and payloads, and serves the log's part of the API.
//
// The index is derived: it follows the log, remembers per lane how far it is,
// and can be thrown away and built again (Rebuild). It holds nothing that the
// log does not, and results are read from the log itself. On PostgreSQL one
// replica indexes at a time, under a lease.
//
// The words of events stand in it as they are; of payloads it keeps keyed
// digests of whole words, under a key derived from the log's: the same words
// are found, and a stolen database shows none. Whoever can write to the log can
// still see which events share words. What is erased leaves the index in the
// same transaction. Only server may import search.
package search
