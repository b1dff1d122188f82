// Package lease keeps account of credentials that are made for one agent and a
// time: it makes each known before it exists, and ends it when its time is over,
// until it has been seen to be dead.
//
//   - A lease is in the database before the provider hears of it, with its
//     credential sealed: a crash at any instant leaves none that nobody knows.
//   - It ends when its time is over, when someone ends it, or when its replica
//     stops. Ending is verified by its effect: a login must be refused.
//   - What cannot be ended is tried again for ever, counted as a zombie, shown
//     by "countersign secret leases", and a finding.
//   - Making, ending and every failure to end are events.
//
// The server may import lease. Makers are in secrets/provider.
package lease
