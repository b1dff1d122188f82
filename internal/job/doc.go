// Package job is what runs in the background: services that start and stop in
// order, and leases, so that of many replicas one does the work.
//
// A lease is a row with an epoch, not a lock of the engine: it works behind
// connection poolers, survives nothing (a dead holder's lease expires) and
// fences (work committed under an old epoch is refused with Lease.Check inside
// its transaction). Any package above storage may import job.
package job
