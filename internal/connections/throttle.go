package connections

import (
	"strconv"
	"sync"
	"time"
)

// throttle lets something happen at most once per interval and key, so that
// what an upstream says over and over cannot make us write over and over.
type throttle struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	noteEvery  = time.Minute
	mostNotes  = 10000
	staleNotes = 10 * noteEvery
)

// allow reports whether key has been quiet for noteEvery.
func (t *throttle) allow(key string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[key]; ok && now.Sub(last) < noteEvery && !now.Before(last) {
		return false
	}
	if t.last == nil {
		t.last = map[string]time.Time{}
	}
	if len(t.last) >= mostNotes {
		for k, last := range t.last {
			if now.Sub(last) > staleNotes {
				delete(t.last, k)
			}
		}
		if len(t.last) >= mostNotes {
			return false
		}
	}
	t.last[key] = now
	return true
}

// forget lets key happen again at once: what it stood for failed.
func (t *throttle) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.last, key)
}

func itoa(n int) string { return strconv.Itoa(n) }
