package identity

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Attempts to sign in: per name a burst of ten and then one every six seconds,
// per network (IPv4 /24, IPv6 /56) a burst of thirty and then one every two.
const (
	nameBurst    = 10
	nameEvery    = 6 * time.Second
	networkBurst = 30
	networkEvery = 2 * time.Second
	maxLimiters  = 8192 // of each kind, so that a flood of names costs bounded memory
)

// limits counts attempts to sign in.
type limits struct{ names, networks buckets }

func newLimits() *limits {
	return &limits{
		names:    buckets{limit: rate.Every(nameEvery), burst: nameBurst, m: map[string]*rate.Limiter{}},
		networks: buckets{limit: rate.Every(networkEvery), burst: networkBurst, m: map[string]*rate.Limiter{}},
	}
}

// allow takes one attempt from the name and the network; an empty remote is a
// caller inside the process.
func (l *limits) allow(name, remote string, now time.Time) bool {
	if remote != "" && !l.networks.take(network(remote), now) {
		return false
	}
	return l.names.take(name, now)
}

// network returns the part of an address that one attacker surely holds whole.
func network(remote string) string {
	a, err := netip.ParseAddr(remote)
	if err != nil {
		return "?"
	}
	bits := 56
	if a = a.Unmap().WithZone(""); a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // within the address's length
	return p.String()
}

// buckets are token buckets by key.
type buckets struct {
	limit rate.Limit
	burst int
	mu    sync.Mutex
	m     map[string]*rate.Limiter
}

func (b *buckets) take(key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.m[key]
	if l == nil {
		if len(b.m) >= maxLimiters {
			b.sweep(now)
		}
		if len(b.m) >= maxLimiters {
			key = "" // full of busy ones: the rest share one
			l = b.m[key]
		}
		if l == nil {
			l = rate.NewLimiter(b.limit, b.burst)
			b.m[key] = l
		}
	}
	return l.AllowN(now, 1)
}

// sweep forgets the keys that have their whole burst again.
func (b *buckets) sweep(now time.Time) {
	for k, l := range b.m {
		if l.TokensAt(now) >= float64(b.burst) {
			delete(b.m, k)
		}
	}
}
