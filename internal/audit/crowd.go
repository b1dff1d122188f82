package audit

import "time"

// A committer is crowded when so many events wait for it, or when it has been at
// one batch for so long: a connection may have died in silence.
const (
	crowdedAt = 32
	slowBatch = 20 * time.Millisecond
)

// began is where the time of batches is counted from, on the monotonic clock.
var began = time.Now()

// crowded reports whether an event is better off with another committer.
func (s *slot) crowded() bool {
	if len(s.in) >= crowdedAt {
		return true
	}
	since := s.busy.Load()
	return since != 0 && time.Since(began)-time.Duration(since) > slowBatch
}
