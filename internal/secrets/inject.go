package secrets

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// live is the view of the store that Inject answers from.
type live struct {
	mu      sync.RWMutex // held to read while a value is copied, to write while views are swapped
	secrets map[string]*opened
	stored  sync.Map // identifier -> *atomic.Int64: the last use that was stored, microseconds
	writes  sync.WaitGroup
	closed  bool
}

// opened is a secret with its value.
type opened struct {
	Secret
	value Value // zero if Broken
}

// Use says what a secret is needed for.
type Use struct {
	Call       string // the call of the receipt
	Secret     string // name
	Connection string // name
	Host       string // HOST or HOST:PORT it will be sent to; empty for a child process
}

// Inject returns the value of a secret for one use, as a copy that the caller
// should Wipe. It refuses without a valid receipt for the call, for a
// connection other than the secret's, a host that is not allowed, and while the
// present state of secrets cannot be seen.
func (s *Service) Inject(r audit.Receipt, u Use) (Value, error) {
	if !r.For(u.Call) {
		return Value{}, ErrNoReceipt
	}
	if !s.watch.Fresh() {
		return Value{}, ErrStale
	}
	s.live.mu.RLock()
	defer s.live.mu.RUnlock()
	sec := s.live.secrets[u.Secret]
	switch {
	case s.live.closed:
		return Value{}, ErrStale
	case sec == nil:
		return Value{}, ErrNotFound.Say("there is no secret %.63q, which the connection %.63q needs: countersign secret put", u.Secret, u.Connection)
	case sec.Connection != u.Connection:
		return Value{}, ErrConnection.Say("the secret %s belongs to the connection %s, not to %.63q", sec.Name, sec.Connection, u.Connection)
	case !sec.allows(u.Host) && u.Host == "":
		return Value{}, ErrHost.Say("the secret %s may be sent to %s only, not given to a program", sec.Name, strings.Join(sec.Hosts, ", "))
	case !sec.allows(u.Host):
		return Value{}, ErrHost.Say("the secret %s may not be sent to %.80q, only to %s", sec.Name, u.Host, strings.Join(sec.Hosts, ", "))
	case sec.value.IsZero():
		return Value{}, ErrSealed.Say("the secret %s cannot be opened; put it again", sec.Name)
	}
	s.used(sec.ID)
	return sec.value.Clone(), nil
}

// Secret returns a secret by name, without its value, from memory.
func (s *Service) Secret(name string) (Secret, bool) {
	s.live.mu.RLock()
	defer s.live.mu.RUnlock()
	sec := s.live.secrets[name]
	if sec == nil {
		return Secret{}, false
	}
	return sec.Secret, true
}

// Secrets returns all secrets by name, without values, from memory.
func (s *Service) Secrets() []Secret {
	s.live.mu.RLock()
	defer s.live.mu.RUnlock()
	out := make([]Secret, 0, len(s.live.secrets))
	for _, sec := range s.live.secrets {
		out = append(out, sec.Secret)
	}
	slices.SortFunc(out, func(a, b Secret) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// reload opens what is stored now. A secret that cannot be opened is kept as
// broken: one bad row must not stop the others.
func (s *Service) reload(ctx context.Context) error {
	rows, err := secretRows(ctx, s.db, "")
	if err != nil {
		return err
	}
	next := make(map[string]*opened, len(rows))
	for _, r := range rows {
		o := &opened{Secret: r.Secret}
		if o.value, err = s.master.open(r.Secret, r.sealed); err != nil {
			o.Broken = true
			s.logger.Error("a stored secret cannot be opened; calls that need it fail until it is put again", "secret", r.Name, "error", fault.Public(err))
		} else {
			s.matcher.Add(r.Name, o.value.Expose())
		}
		next[r.Name] = o
	}
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if s.live.closed {
		wipe(next)
		return nil
	}
	wipe(s.live.secrets)
	s.live.secrets = next
	return nil
}

func wipe(secrets map[string]*opened) {
	for _, o := range secrets {
		o.value.Wipe()
	}
}

const (
	useEvery   = time.Minute // at most one write per secret
	useTimeout = 10 * time.Second
)

// used notes the use of a secret, in the background and at most once a minute.
func (s *Service) used(id string) {
	now := s.now()
	v, _ := s.live.stored.LoadOrStore(id, new(atomic.Int64))
	last := v.(*atomic.Int64)
	was := last.Load()
	if now.UnixMicro()-was < useEvery.Microseconds() || !last.CompareAndSwap(was, now.UnixMicro()) {
		return
	}
	s.live.writes.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), useTimeout)
		defer cancel()
		if err := touchSecret(ctx, s.db, id, now); err != nil {
			s.logger.Warn("the last use of a secret could not be stored", "secret", id, "error", err)
		}
	})
}

// Close waits for what is being written and wipes all values; Inject refuses
// from then on. It may be called more than once.
func (s *Service) Close(ctx context.Context) error {
	s.live.mu.Lock()
	s.live.closed = true
	wipe(s.live.secrets)
	s.live.secrets = nil
	s.live.mu.Unlock()
	return s.settle(ctx)
}

// settle waits until what is being written in the background has been. No
// Inject may run meanwhile.
func (s *Service) settle(ctx context.Context) error {
	done := make(chan struct{})
	go func() { s.live.writes.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
