package secrets

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

const (
	mintTimeout = 30 * time.Second
	// remorse is how long a failure is remembered, so that a provider that is
	// down is not asked by every call.
	remorse = time.Second
	// rejectAge is how old a credential must be before an upstream's refusal
	// makes us ask for another: a fresh one would be refused too.
	rejectAge = 5 * time.Second
	// rememberFor is how long after its end a credential is still looked for in
	// what is written: answers on the way may hold it.
	rememberFor = 10 * time.Minute
)

// cache keeps what was made of secrets until it ends, in memory only. Of
// several that ask for the same at once one makes it and all get it.
type cache struct {
	now     func() time.Time
	matcher Matcher

	mu     sync.Mutex
	items  map[cacheKey]*item
	known  map[string]time.Time // names under which the matcher knows credentials, and until when
	next   int
	closed bool
	key    [32]byte
	flight sync.WaitGroup
}

type cacheKey struct{ secret, use string }

type item struct {
	stamp string
	done  chan struct{} // closed when made or failed

	// Written before done is closed, read after.
	made   Minted
	err    error
	born   time.Time
	until  time.Time
	serial int
}

// issued is a copy of a credential, to be wiped by who got it.
type issued struct {
	value Value
	stamp string    // what it is, for who must know whether it still is the same
	until time.Time // zero: as long as the secret is the same
}

func newCache(now func() time.Time, m Matcher) *cache {
	c := &cache{now: now, matcher: m, items: map[cacheKey]*item{}, known: map[string]time.Time{}}
	rand.Read(c.key[:]) // crypto/rand.Read never fails
	return c
}

// get returns what there is for key and stamp, or makes it. The maker runs on
// when its caller leaves: others may wait for it.
func (c *cache) get(ctx context.Context, key cacheKey, stamp string, fn func(context.Context) (Minted, error)) (issued, error) {
	for range 3 { // what is good for one use may be gone before we got it
		it, err := c.find(ctx, key, stamp, fn)
		if err != nil {
			return issued{}, err
		}
		select {
		case <-it.done:
		case <-ctx.Done():
			return issued{}, context.Cause(ctx)
		}
		c.mu.Lock()
		got, err := issued{it.made.Value.Clone(), stamp + "#" + strconv.Itoa(it.serial), it.made.Expires}, it.err
		closed := c.closed
		c.mu.Unlock()
		switch {
		case closed:
			got.value.Wipe()
			return issued{}, ErrStale
		case err != nil:
			return issued{}, err
		case !got.value.IsZero():
			return got, nil
		}
	}
	return issued{}, ErrStale
}

func (c *cache) find(ctx context.Context, key cacheKey, stamp string, fn func(context.Context) (Minted, error)) (*item, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrStale
	}
	it := c.items[key]
	if it != nil && it.stamp == stamp && it.good(c.now()) {
		return it, nil
	}
	if it != nil {
		c.drop(key, "another is needed")
	}
	c.next++
	fresh := &item{stamp: stamp, done: make(chan struct{}), serial: c.next}
	c.items[key] = fresh
	c.flight.Add(1)
	run, cancel := context.WithTimeout(context.WithoutCancel(ctx), mintTimeout)
	go func() {
		defer c.flight.Done()
		defer cancel()
		c.run(run, fresh, fn)
	}()
	return fresh, nil
}

// fingerprint tells values apart without showing them.
func (c *cache) fingerprint(v Value) string {
	m := hmac.New(sha256.New, c.key[:])
	m.Write(v.Expose())
	return hex.EncodeToString(m.Sum(nil)[:12])
}

func (c *cache) run(ctx context.Context, it *item, fn func(context.Context) (Minted, error)) {
	made, err := fn(ctx)
	if err == nil && made.Value.IsZero() {
		err = fault.New(fault.Upstream, ErrMint.Code, "the provider issued an empty credential")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	it.made, it.err, it.born = made, err, now
	switch {
	case err != nil:
		it.until = now.Add(remorse)
	case !made.Expires.IsZero():
		it.until = made.Expires.Add(-skew(made.Expires.Sub(now)))
	}
	if c.closed && err == nil {
		c.end(it, "shutting down")
	}
	close(it.done)
}

// skew is how long before its end a credential is not used any more: a tenth of
// its life, at most half a minute.
func skew(life time.Duration) time.Duration { return min(max(life/10, 0), 30*time.Second) }

// good reports whether it is being made, or may be used.
func (it *item) good(now time.Time) bool {
	select {
	case <-it.done:
		return now.Before(it.until)
	default:
		return true
	}
}

// drop forgets what there is for key. A credential that ends by itself soon is
// left to do so.
func (c *cache) drop(key cacheKey, why string) {
	it := c.items[key]
	delete(c.items, key)
	select {
	case <-it.done:
		if it.err == nil {
			c.end(it, why)
		}
	default: // who waits for it gets it; then it is forgotten
		c.flight.Go(func() {
			<-it.done
			c.mu.Lock()
			defer c.mu.Unlock()
			if it.err == nil {
				c.end(it, why)
			}
		})
	}
}

func (c *cache) end(it *item, why string) {
	it.made.Value.Wipe()
	if it.made.Release != nil {
		it.made.Release(why)
		it.made.Release = nil
	}
}

// reject forgets a credential that the upstream refused, unless it is so fresh
// that another would be refused too.
func (c *cache) reject(secret string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for key, it := range c.items {
		if key.secret != secret {
			continue
		}
		select {
		case <-it.done:
			if it.err == nil && now.Sub(it.born) >= rejectAge {
				c.drop(key, "the upstream refused it")
			}
		default:
		}
	}
}

// forget drops what was made of a secret and is the one meant.
func (c *cache) forget(secret, detail, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, it := range c.items {
		if key.secret != secret {
			continue
		}
		select {
		case <-it.done:
			if it.made.Detail[detail] == value {
				c.drop(key, "it was ended")
			}
		default:
		}
	}
}

// keep drops what belongs to secrets that are not there any more, or are
// another: stamps says what they are now.
func (c *cache) keep(stamps map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, it := range c.items {
		if stamp, there := stamps[key.secret]; !there || stamp != it.stamp {
			c.drop(key, "the secret was changed")
		}
	}
}

// learn makes a credential known to the matcher until some time after its end,
// and forgets those whose time is over.
func (c *cache) learn(secret string, m Minted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for name, until := range c.known {
		if now.After(until) {
			c.matcher.Remove(name)
			delete(c.known, name)
		}
	}
	c.next++
	name := secret + "#" + strconv.Itoa(c.next)
	end := m.Expires
	if end.Before(now) {
		end = now
	}
	c.known[name] = end.Add(rememberFor)
	learn(c.matcher, name, m.Value)
}

// close ends everything and waits for what is being made.
func (c *cache) close() {
	c.mu.Lock()
	c.closed = true
	for key := range c.items {
		c.drop(key, "shutting down")
	}
	c.mu.Unlock()
}
