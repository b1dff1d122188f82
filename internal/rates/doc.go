// Package rates counts what may happen only so often, on all replicas together.
// An allowance is one row, moved in the transaction of who asks; its time is the
// database's, so that clocks that differ change nothing.
package rates
