package secrets

import (
	"context"
	"net/url"
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
	Agent      string // name of who calls; empty: Countersign itself
	Part       string // of a value that is a URL: username, password, host, port or database; empty: all of it
	Host       string // HOST or HOST:PORT it will be sent to; empty for a child process
}

// Inject returns the value of a secret for one use, or what is made of it, as a
// copy that the caller should Wipe. It refuses without a valid receipt for the
// call, for a connection other than the secret's, a host that is not allowed,
// and while the present state of secrets cannot be seen.
func (s *Service) Inject(ctx context.Context, r audit.Receipt, u Use) (Value, error) {
	got, err := s.give(ctx, r, u)
	return got.value, err
}

// Stamp says which credential Inject would give for a use, and until when it is
// good (zero: as long as it is the same). A new one is made if there is none.
// Who keeps credentials for longer than a request, in the environment of a
// program, must give them up when the stamp is another.
func (s *Service) Stamp(ctx context.Context, r audit.Receipt, u Use) (stamp string, until time.Time, err error) {
	got, err := s.give(ctx, r, u)
	got.value.Wipe()
	return got.stamp, got.until, err
}

// Rejected says that an upstream refused the secret of a use: what was made of
// it is forgotten, so that the next call gets another. A credential that is
// seconds old is kept; asking for more would not help.
func (s *Service) Rejected(u Use) {
	if sec, ok := s.Secret(u.Secret); ok && sec.Connection == u.Connection && (sec.Kind != KindValue || sec.Source != "") {
		s.minted.reject(sec.ID)
	}
}

func (s *Service) give(ctx context.Context, r audit.Receipt, u Use) (issued, error) {
	if !r.For(u.Call) {
		return issued{}, ErrNoReceipt
	}
	if !s.watch.Fresh() {
		return issued{}, ErrStale
	}
	sec, err := s.checked(u)
	if err != nil {
		return issued{}, err
	}
	s.used(sec.ID)
	got, err := s.issue(ctx, sec, u)
	if err != nil || u.Part == "" {
		return got, err
	}
	whole := got.value
	defer whole.Wipe()
	got.value, err = s.part(sec, whole, u.Part)
	return got, err
}

// part returns a part of a value that is a URL.
func (s *Service) part(sec Secret, v Value, part string) (Value, error) {
	u, err := url.Parse(string(v.Expose()))
	if err != nil || u.Host == "" {
		return Value{}, ErrInvalid.Say("the secret %s is no URL, so it has no %.20s", sec.Name, part)
	}
	var text string
	switch part {
	case "username":
		text = u.User.Username()
	case "password":
		text, _ = u.User.Password()
	case "host":
		text = u.Hostname()
	case "port":
		text = u.Port()
	case "database":
		text = strings.TrimPrefix(u.Path, "/")
	}
	if text == "" {
		return Value{}, ErrInvalid.Say("the secret %s is a URL without %.20s", sec.Name, part)
	}
	return NewValue([]byte(text)), nil
}

// checked returns the secret of a use, if it is allowed.
func (s *Service) checked(u Use) (Secret, error) {
	s.live.mu.RLock()
	defer s.live.mu.RUnlock()
	sec := s.live.secrets[u.Secret]
	switch {
	case s.live.closed:
		return Secret{}, ErrStale
	case sec == nil:
		return Secret{}, ErrNotFound.Say("there is no secret %.63q, which the connection %.63q needs: countersign secret put", u.Secret, u.Connection)
	case sec.Connection != u.Connection:
		return Secret{}, ErrConnection.Say("the secret %s belongs to the connection %s, not to %.63q", sec.Name, sec.Connection, u.Connection)
	case !sec.allows(u.Host) && u.Host == "":
		return Secret{}, ErrHost.Say("the secret %s may be sent to %s only, not given to a program", sec.Name, strings.Join(sec.Hosts, ", "))
	case !sec.allows(u.Host):
		return Secret{}, ErrHost.Say("the secret %s may not be sent to %.80q, only to %s", sec.Name, u.Host, strings.Join(sec.Hosts, ", "))
	case sec.Broken || sec.value.IsZero() && s.NeedsValue(sec.Spec):
		return Secret{}, ErrSealed.Say("the secret %s cannot be opened; put it again", sec.Name)
	}
	return sec.Secret, nil
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
	rows, beside, err := s.stored(ctx)
	if err != nil {
		return err
	}
	m := s.master.Load()
	next, stamps, byID := make(map[string]*opened, len(rows)), map[string]string{}, map[string]Secret{}
	for _, r := range rows {
		o := &opened{Secret: r.Secret}
		if o.value, err = m.open(r.Secret, r.sealed); err != nil {
			o.Broken = true
			s.logger.Error("a stored secret cannot be opened; calls that need it fail until it is put again", "secret", r.Name, "error", fault.Public(err))
		} else {
			learn(s.matcher, r.Name, o.value)
		}
		next[r.Name], stamps[r.ID], byID[r.ID] = o, r.stamp(), r.Secret
	}
	for _, b := range beside { // they too may stand in what is written
		sec := byID[b.secret]
		if v, err := m.open(sec.at(b.Number), b.sealed); err == nil {
			learn(s.matcher, sec.Name, v)
			v.Wipe()
		}
	}
	s.minted.keep(stamps)
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
	s.minted.close()
	return s.settle(ctx)
}

// settle waits until what is being written in the background has been. No
// Inject may run meanwhile.
func (s *Service) settle(ctx context.Context) error {
	done := make(chan struct{})
	go func() { s.live.writes.Wait(); s.minted.flight.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
