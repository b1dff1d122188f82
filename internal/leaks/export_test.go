package leaks

// What reads foreign bytes, for tests.
var (
	Candidates = candidates
	Alerts     = alerts
	Clip       = clip
)
