package storage

import "time"

// PingTimeout bounds the look at a connection that lay idle.
const PingTimeout = pingTimeout

// SetClock gives w another clock.
func (w *Watcher) SetClock(now func() time.Time) { w.now = now }
