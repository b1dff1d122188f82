package storage

import "time"

// SetClock gives w another clock.
func (w *Watcher) SetClock(now func() time.Time) { w.now = now }
