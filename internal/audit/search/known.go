package search

import "sync"

// known are values of fields that the index has remembered already, so that
// they need not be written with every event. A value counts as known only once
// the transaction that wrote it has committed, and no longer when the index was
// emptied meanwhile.
type known struct {
	mu      sync.Mutex
	epoch   int
	values  map[string]bool
	pending []string
}

func (k *known) has(field, value string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.values[field+"\x00"+value]
}

// later notes a value that was written and is not committed yet.
func (k *known) later(field, value string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending = append(k.pending, field+"\x00"+value)
}

// begin forgets what was not committed. It returns what commit is to be given.
func (k *known) begin() (epoch int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pending = nil
	return k.epoch
}

func (k *known) commit(epoch int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if epoch == k.epoch {
		if k.values == nil || len(k.values) > maxKnown {
			k.values = map[string]bool{}
		}
		for _, v := range k.pending {
			k.values[v] = true
		}
	}
	k.pending = nil
}

// reset forgets everything: the index is being emptied.
func (k *known) reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.epoch++
	k.values, k.pending = nil, nil
}
