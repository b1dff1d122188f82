package gateway

import (
	"net/netip"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

const (
	coalesceFor = time.Minute
	// maxNetworks bounds what a flood from many networks can make us remember;
	// beyond it they share one entry.
	maxNetworks = 4096
)

// coalescer turns a flood of refused credentials into at most one event per
// network, agent, reason and minute. The first is recorded at once; those of the
// following minute are counted and recorded together at its end.
type coalescer struct {
	now  func() time.Time
	emit func(audit.Event)

	mu      sync.Mutex
	entries map[coalesceKey]*coalesced
	stop    chan struct{}
	stopped chan struct{}
	once    sync.Once
}

type coalesceKey struct{ network, agent, code string }

type coalesced struct {
	last  time.Time // of the last event
	count int64     // since then
	event audit.Event
}

type coalescedDetail struct {
	Code    string `json:"code"`
	Network string `json:"network"`
	Count   int64  `json:"count"`
}

func newCoalescer(now func() time.Time, emit func(audit.Event)) *coalescer {
	c := &coalescer{now: now, emit: emit, entries: map[coalesceKey]*coalesced{}, stop: make(chan struct{}), stopped: make(chan struct{})}
	go c.loop()
	return c
}

func (c *coalescer) loop() {
	defer close(c.stopped)
	tick := time.NewTicker(coalesceFor / 4)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
			c.flush(c.now(), false)
		}
	}
}

// add counts one refusal.
func (c *coalescer) add(ev audit.Event, code string) {
	now := c.now()
	key := coalesceKey{network(ev.Remote), ev.Agent, code}
	c.mu.Lock()
	e := c.entries[key]
	if e == nil && len(c.entries) >= maxNetworks {
		key = coalesceKey{"other", "", code}
		e = c.entries[key]
	}
	if e == nil {
		e = &coalesced{}
		c.entries[key] = e
	}
	e.count++
	e.event = ev
	var out []audit.Event
	if now.Sub(e.last) >= coalesceFor {
		out = append(out, e.take(key, now))
	}
	c.mu.Unlock()
	for _, ev := range out {
		c.emit(ev)
	}
}

// take returns the event for what was counted. The caller holds the mutex.
func (e *coalesced) take(key coalesceKey, now time.Time) audit.Event {
	ev := e.event
	ev.Detail = detail(coalescedDetail{Code: key.code, Network: key.network, Count: e.count})
	e.last, e.count = now, 0
	return ev
}

// flush records what is a minute old, everything if all is set, and forgets
// networks that have been quiet for as long.
func (c *coalescer) flush(now time.Time, all bool) {
	var out []audit.Event
	c.mu.Lock()
	for key, e := range c.entries {
		switch old := now.Sub(e.last) >= coalesceFor; {
		case e.count > 0 && (old || all):
			out = append(out, e.take(key, now))
		case old:
			delete(c.entries, key)
		}
	}
	c.mu.Unlock()
	for _, ev := range out {
		c.emit(ev)
	}
}

func (c *coalescer) close() {
	c.once.Do(func() {
		close(c.stop)
		<-c.stopped
		c.flush(c.now(), true)
	})
}

// network returns the /24 or /48 that an address belongs to.
func network(remote string) string {
	addr, err := netip.ParseAddr(remote)
	if err != nil {
		return "unknown"
	}
	addr = addr.Unmap().WithZone("")
	bits := 48
	if addr.Is4() {
		bits = 24
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return p.String()
}
