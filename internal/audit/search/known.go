package search

import (
	"maps"
	"sync"
)

// known are values of fields that the index has remembered already, so that
// they need not be written with every event. A value counts as known only once
// the transaction that wrote it has committed, and no longer when the index was
// emptied meanwhile.
type known struct {
	mu      sync.Mutex
	epoch   int
	values  map[string]bool
	pending map[string]bool
}

func (k *known) has(field, value string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := field + "\x00" + value
	return k.values[v] || k.pending[v]
}

// later notes a value that was written and is not committed yet.
func (k *known) later(field, value string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending[field+"\x00"+value] = true
}

// begin forgets what was not committed. It returns what commit is to be given.
func (k *known) begin() (epoch int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending = map[string]bool{}
	return k.epoch
}

func (k *known) commit(epoch int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if epoch == k.epoch {
		if k.values == nil || len(k.values) > maxKnown {
			k.values = map[string]bool{}
		}
		maps.Copy(k.values, k.pending)
	}
	k.pending = map[string]bool{}
}

// reset forgets everything: the index is being emptied.
func (k *known) reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.epoch++
	k.values, k.pending = nil, map[string]bool{}
}
