package mcp

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/connections"
)

// Limits on what the aggregated endpoint remembers.
const (
	peerLife     = 30 * time.Minute // unused
	eraLife      = 10 * time.Minute // then a server may have learned the newer era
	maxPeers     = 4096
	maxResources = 10000 // per agent
	maxAgents    = 1024
)

// peers remembers, for the aggregated endpoint, what we know of upstreams: the
// sessions that stand behind a client's, the era of each, and which connection
// has a resource. All of it can be found out again.
type peers struct {
	f *Front

	mu        sync.Mutex
	open      map[peerKey]*peerSlot
	eras      map[string]eraKnown          // connections that speak one era alone
	resources map[string]map[string]string // agent, URI or template: connection
	flying    map[flightKey]string         // requests under way: connection
	streams   map[string]int               // of the aggregated endpoint, by agent
}

type peerKey struct{ agent, session, conn string }

type flightKey struct{ agent, session, id string }

type peerSlot struct {
	mu   sync.Mutex // held while the peer is opened
	peer *peer
	conn time.Time // the connection's last change when it was opened
	used time.Time // under peers.mu
}

// several marks a resource that more than one connection has.
const several = "\x00"

func newPeers(f *Front) *peers {
	return &peers{f: f, open: map[peerKey]*peerSlot{}, eras: map[string]eraKnown{}, resources: map[string]map[string]string{}, flying: map[flightKey]string{}, streams: map[string]int{}}
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.open)
}

// era is the one era that an upstream speaks.
type era bool

const (
	old   era = false
	young era = true
)

type eraKnown struct {
	era   era
	until time.Time
}

func eraKey(c connections.Connection) string { return c.Name + "\x00" + c.Updated.String() }

func (p *peers) learn(c connections.Connection, e era) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.eras) > maxPeers {
		clear(p.eras)
	}
	p.eras[eraKey(c)] = eraKnown{e, p.f.o.Now().Add(eraLife)}
}

func (p *peers) era(c connections.Connection) (e era, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.eras[eraKey(c)]
	return k.era, p.f.o.Now().Before(k.until)
}

// get returns an open peer of a client's session, which speaks by send.
func (p *peers) get(ctx context.Context, k peerKey, c connections.Connection, caps []byte, older bool, send sender) (*peer, error) {
	slot := p.slot(k)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if slot.peer == nil || !slot.conn.Equal(c.Updated) {
		fresh := &peer{f: p.f, conn: c, send: send, caps: caps, older: older}
		if err := fresh.open(ctx); err != nil {
			p.drop(k)
			return nil, err
		}
		slot.peer, slot.conn = fresh, c.Updated
	}
	mine := *slot.peer
	mine.send, mine.conn = send, c
	return &mine, nil
}

func (p *peers) slot(k peerKey) *peerSlot {
	now := p.f.o.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) >= maxPeers {
		p.sweep(now)
	}
	slot := p.open[k]
	if slot == nil {
		slot = &peerSlot{}
		p.open[k] = slot
	}
	slot.used = now
	return slot
}

// sweep forgets what nobody used, or the least recently used if that is not
// enough. The upstream forgets sessions by itself.
func (p *peers) sweep(now time.Time) {
	var oldest peerKey
	var at time.Time
	for k, slot := range p.open {
		if now.Sub(slot.used) > peerLife {
			delete(p.open, k)
		} else if at.IsZero() || slot.used.Before(at) {
			oldest, at = k, slot.used
		}
	}
	if len(p.open) >= maxPeers {
		delete(p.open, oldest)
	}
}

func (p *peers) drop(k peerKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, k)
}

// take returns and forgets every open peer of a client's session.
func (p *peers) take(agent, session string) []*peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*peer
	for k, slot := range p.open {
		if k.agent == agent && k.session == session && slot.mu.TryLock() {
			if slot.peer != nil {
				out = append(out, slot.peer)
			}
			slot.mu.Unlock()
			delete(p.open, k)
		}
	}
	return out
}

// remember notes that conn has a resource or a template of resources.
func (p *peers) remember(agent, uri, conn string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.resources[agent]
	if known == nil {
		if len(p.resources) >= maxAgents {
			clear(p.resources)
		}
		known = map[string]string{}
		p.resources[agent] = known
	}
	if old, ok := known[uri]; ok && old != conn {
		conn = several // nobody may take over another's resource by listing it too
	}
	if len(known) < maxResources {
		known[uri] = conn
	}
}

// forget drops what is known of an agent's resources, before they are listed
// anew.
func (p *peers) forget(agent string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.resources, agent)
}

// owner returns which connection has uri: by its name, else by the template
// with the longest literal beginning.
func (p *peers) owner(agent, uri string) (conn string, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if conn, known = p.resources[agent][uri]; known {
		return conn, true
	}
	longest := 0
	for template, c := range p.resources[agent] {
		literal, _, is := strings.Cut(template, "{")
		switch {
		case !is || len(literal) < longest || literal == "" || !strings.HasPrefix(uri, literal):
		case len(literal) == longest && c != conn:
			conn = several
		default:
			conn, known, longest = c, true, len(literal)
		}
	}
	return conn, known
}

func (p *peers) fly(k flightKey, conn string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying[k] = conn
}

func (p *peers) land(k flightKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.flying, k)
}

func (p *peers) where(k flightKey) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flying[k]
}
