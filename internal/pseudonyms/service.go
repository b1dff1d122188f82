package pseudonyms

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// Keep is how long a value is kept that nobody needs.
const Keep = 30 * 24 * time.Hour

const (
	freshFor   = 24 * time.Hour // how long a use is not written again
	sweepEvery = time.Hour
	mostKnown  = 50_000 // placeholders that this replica has lately seen in the store
)

// Options of a Service. Derive must be set.
type Options struct {
	Derive func(label string) []byte // 32 bytes for a label
	Now    func() time.Time
	Logger *slog.Logger
}

// Service gives out placeholders and what they stand for. It is safe for
// concurrent use.
type Service struct {
	db  *storage.DB
	log *audit.Log
	o   Options
	mac []byte

	mu    sync.Mutex
	known map[row]time.Time // when it was last written
	swept time.Time
}

// row names a placeholder of an agent.
type row struct{ agent, token string }

// New returns a service that keeps its table in db and encrypts with log's keys.
func New(db *storage.DB, log *audit.Log, o Options) (*Service, error) {
	if o.Derive == nil {
		return nil, errors.New("pseudonyms: Derive is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{db: db, log: log, o: o, mac: o.Derive("pseudonyms/v1"), known: map[row]time.Time{}, swept: o.Now()}, nil
}

// For returns what stands for a value of an agent, durably kept. It must be Fit.
func (s *Service) For(ctx context.Context, a Agent, label, rule string, value []byte) (string, error) {
	token := label + ":" + rule + ":" + s.digest(a, label, value)
	out := "[" + token + "]"
	if !Fit(value) || !form.MatchString(out) {
		return "", ErrStored.Say("a value of %s has no placeholder", label)
	}
	return out, s.keep(ctx, a, token, value)
}

// keep makes a placeholder and its value durable.
func (s *Service) keep(ctx context.Context, a Agent, token string, value []byte) error {
	now, r := s.o.Now(), row{a.ID, token}
	s.mu.Lock()
	fresh := now.Sub(s.known[r]) < freshFor
	s.mu.Unlock()
	if fresh {
		return nil
	}
	sealed, err := s.log.SealBeside(ctx, a.Name, bound(a, token), value)
	if err != nil {
		return ErrStored.With(err)
	}
	if err := put(ctx, s.db, r, sealed, now); err != nil {
		return ErrStored.With(err)
	}
	s.mu.Lock()
	if len(s.known) >= mostKnown {
		clear(s.known)
	}
	s.known[r] = now
	due := now.Sub(s.swept) > sweepEvery
	if due {
		s.swept = now
	}
	s.mu.Unlock()
	if due {
		if err := sweep(ctx, s.db, now.Add(-Keep)); err != nil {
			s.o.Logger.Warn("old placeholders could not be removed", "error", err)
		}
	}
	return nil
}

func (s *Service) digest(a Agent, label string, value []byte) string {
	h := hmac.New(sha256.New, s.mac)
	for _, part := range []string{a.ID, label, string(value)} {
		sum := sha256.Sum256([]byte(part))
		h.Write(sum[:]) // a hash takes everything
	}
	return encoding.EncodeToString(h.Sum(nil)[:tokenBytes])
}

// bound binds a sealed value to its agent and placeholder.
func bound(a Agent, token string) string { return "pseudonym\x00" + a.ID + "\x00" + token }

// refs is the label of references to texts.
const refs = "ref"

// Refer returns what stands for a text, durably kept.
func (s *Service) Refer(ctx context.Context, a Agent, text string) (string, error) {
	if len(text) > MaxText {
		return "", ErrStored.Say("a text of %d bytes is too long to stand for; at most %d", len(text), MaxText)
	}
	token := refs + ":text:" + s.digest(a, refs, []byte(text))
	return "[" + token + "]", s.keep(ctx, a, token, []byte(text))
}

// Expand returns a text with the texts in place of an agent's references to them.
func (s *Service) Expand(ctx context.Context, a Agent, text string) (string, error) {
	out, err := s.put(ctx, a, []string{refs}, []byte(text), func([]byte) bool { return true })
	return string(out), err
}

// Reveal returns the text with the values in place of an agent's placeholders of
// these labels: b itself if there is none. What nobody knows, or what cannot be
// read any more, stays as it is.
func (s *Service) Reveal(ctx context.Context, a Agent, labels []string, b []byte) ([]byte, error) {
	return s.put(ctx, a, labels, b, Fit)
}

// put puts values that are good in place of placeholders.
func (s *Service) put(ctx context.Context, a Agent, labels []string, b []byte, good func([]byte) bool) ([]byte, error) {
	values := map[string][]byte{}
	for _, t := range tokens(b, labels) {
		sealed, err := get(ctx, s.db, row{a.ID, t})
		if storage.NoRows(err) {
			continue
		}
		if err != nil {
			return nil, ErrStored.With(err)
		}
		value, err := s.log.OpenBeside(ctx, a.Name, bound(a, t), sealed)
		switch {
		case errors.Is(err, audit.ErrErased):
			continue
		case err != nil:
			return nil, ErrStored.With(err)
		}
		label, _, _ := strings.Cut(t, ":")
		if good(value) && strings.HasSuffix(t, ":"+s.digest(a, label, value)) {
			values[t] = value
		}
	}
	if len(values) == 0 {
		return b, nil
	}
	return form.ReplaceAllFunc(b, func(m []byte) []byte {
		if v, ok := values[bare(m)]; ok {
			return v
		}
		return m
	}), nil
}
