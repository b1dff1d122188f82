// Package account makes the account of an incident out of the log's records: which
// runs and credentials were at work, what they touched and changed, what was decided
// and by whom, in the order of time. It also verifies an incident's file.
//
// It is pure, and the same records give the same account: whoever verifies a file
// computes the account again from the records that are proven to be in the log, and
// compares. So nothing can be said in it that the log does not say. That nothing was
// left out is not shown by it: the whole log, exported, shows that.
//
// incident and cli may import it; it imports audit/tlog and posture/bundle.
package account
