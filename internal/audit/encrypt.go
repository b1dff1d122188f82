package audit

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

// lock encrypts a payload of event where it stands.
func (p *sealed) lock(k *dataKey, event string) {
	p.buf = k.aead.Seal(p.buf[:nonceSize], p.buf[:nonceSize], p.buf[nonceSize:], payloadContext(event, p.name))
	p.key = k.id
}

// lockAll encrypts the payloads of e, in the caller's goroutine.
func (l *Log) lockAll(ctx context.Context, e *entry) error {
	for i := range e.payloads {
		p := &e.payloads[i]
		if p.key != 0 {
			continue
		}
		k, err := l.keys.get(ctx, p.owner)
		if err != nil {
			return err
		}
		p.lock(k, e.ev.ID)
	}
	return nil
}

// lockReady is lockAll with the keys at hand. It reports whether that was enough.
func (l *Log) lockReady(e *entry) bool {
	for i := range e.payloads {
		p := &e.payloads[i]
		if p.key != 0 {
			continue
		}
		k, _ := l.keys.cached(p.owner)
		if k == nil {
			return false
		}
		p.lock(k, e.ev.ID)
	}
	return true
}

// lockNow encrypts e's payloads. The first payload of an agent or subject waits
// for its key to be made, but not for a store known to be down.
func (l *Log) lockNow(ctx context.Context, e *entry) error {
	if l.lockReady(e) {
		return nil
	}
	switch {
	case l.closing.Err() != nil:
		return ErrClosed
	case !l.works():
		return storage.ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	return l.lockAll(ctx, e)
}

// lockOutcome makes the keys that an outcome's payloads need. It tries until
// the log closes; then the outcome goes without them rather than in plain.
func (l *Log) lockOutcome(it *item) {
	for delay := 20 * time.Millisecond; ; delay = min(2*delay, 500*time.Millisecond) {
		ctx, cancel := context.WithTimeout(l.abort, commitTimeout)
		err := l.lockAll(ctx, it.entry)
		cancel()
		if err == nil {
			return
		}
		if l.closing.Err() != nil {
			l.o.Logger.Error("the payloads of an outcome were not kept: no key could be made for them", "call", it.entry.ev.Call, "error", err)
			it.entry = it.entry.drop()
			return
		}
		select {
		case <-l.closing.Done():
		case <-time.After(delay):
		}
	}
}
