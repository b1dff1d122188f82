package runs

import "sync"

// cache remembers at most two times limit values, the newest, without counting
// which are used.
type cache[V any] struct {
	limit int

	mu         sync.Mutex
	young, old map[digest]V
}

func newCache[V any](limit int) *cache[V] {
	return &cache[V]{limit: limit, young: map[digest]V{}}
}

func (c *cache[V]) put(k digest, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= c.limit {
		c.old, c.young = c.young, make(map[digest]V, c.limit/4)
	}
	c.young[k] = v
}

func (c *cache[V]) get(k digest) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.young[k]
	if !ok {
		v, ok = c.old[k]
	}
	return v, ok
}
