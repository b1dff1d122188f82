package secrets_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// mint is a provider that hands out numbered tokens.
type mint struct {
	traits secrets.Traits
	life   time.Duration
	now    func() time.Time
	made   atomic.Int64
	fail   atomic.Bool
	gate   chan struct{} // if not nil, waited for

	mu       sync.Mutex
	released []string
}

func (m *mint) Check(s secrets.Spec) error {
	if s.Settings["bad"] != "" {
		return secrets.ErrInvalid.Say("settings: bad")
	}
	return nil
}

func (m *mint) Traits() secrets.Traits { return m.traits }

func (m *mint) Mint(ctx context.Context, in secrets.Material) (secrets.Minted, error) {
	if m.gate != nil {
		<-m.gate
	}
	if m.fail.Load() {
		return secrets.Minted{}, secrets.ErrMint
	}
	n := m.made.Add(1)
	out := secrets.Minted{Value: secrets.NewValue([]byte(fmt.Sprintf("minted-%s-%04d-%s", in.Use.Agent, n, digest(string(in.Value.Expose())))))}
	if m.life > 0 {
		out.Expires = m.now().Add(m.life)
	}
	out.Release = func(reason string) {
		m.mu.Lock()
		m.released = append(m.released, reason)
		m.mu.Unlock()
	}
	return out, nil
}

// digest stands for what a token is made of.
func digest(s string) string { return fmt.Sprintf("of-%x", sha256.Sum256([]byte(s)))[:20] }

// mintWorld has one secret, "key", of the kind minted.
func mintWorld(t *testing.T, db *storage.DB, traits secrets.Traits, life time.Duration) (*world, *mint) {
	w := settle(t, db)
	m := &mint{traits: traits, life: life, now: w.clock.now}
	w.Handle("minted", m)
	w.put(minted(), "root-"+plain)
	return w, m
}

func minted() secrets.Spec {
	s := spec("key")
	s.Kind, s.Settings = "minted", map[string]string{"scope": "all"}
	return s
}

func (w *world) as(agent string) (string, error) {
	w.t.Helper()
	w.poll()
	r, call := w.receipt()
	v, err := w.Inject(ctx, r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "api.openai.com", Agent: agent})
	return string(v.Expose()), err
}

func TestMintedCredentialsAreKeptUntilTheyEnd(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, m := mintWorld(t, db, secrets.Traits{}, 10*time.Minute)
		first, err := w.as("a")
		if err != nil || first != "minted-a-0001-"+digest("root-"+plain) {
			t.Fatalf("%q, %v", first, err)
		}
		w.clock.add(9*time.Minute + 29*time.Second)
		if again, err := w.as("b"); again != first || err != nil {
			t.Errorf("%q, %v", again, err)
		}
		w.clock.add(2 * time.Second) // 29 seconds before its end
		if again, err := w.as("b"); again == first || err != nil {
			t.Errorf("kept too long: %v", err)
		}
		if _, err := w.Put(ctx, w.by, "because", minted(), secrets.NewValue([]byte("another-root-value"))); err != nil {
			t.Fatal(err)
		}
		if got, err := w.as("b"); !strings.HasSuffix(got, digest("another-root-value")) || err != nil {
			t.Errorf("of a value that is not the present one: %q, %v", got, err)
		}
		if n := m.made.Load(); n != 3 {
			t.Errorf("made %d", n)
		}
		recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"secret.issued"}, Limit: 10})
		if err != nil || len(recs) != 3 {
			t.Errorf("%d events, %v", len(recs), err)
		}
	})
}

func TestEachAgentGetsItsOwn(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, m := mintWorld(t, db, secrets.Traits{Each: true}, time.Hour)
		a, _ := w.as("a")
		b, _ := w.as("b")
		again, err := w.as("a")
		if a == b || a != again || err != nil || m.made.Load() != 2 {
			t.Errorf("%q %q %q %v", a, b, again, err)
		}
	})
}

func TestOfManyOneMints(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, m := mintWorld(t, db, secrets.Traits{}, time.Hour)
		m.gate = make(chan struct{})
		w.poll()
		r, call := w.receipt()
		use := secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "api.openai.com"}
		leaving, leave := context.WithCancel(ctx)
		var wg sync.WaitGroup
		got := make([]string, 20)
		left := make(chan error)
		go func() {
			_, err := w.Inject(leaving, r, use)
			left <- err
		}()
		for i := range got {
			wg.Go(func() {
				v, err := w.Inject(ctx, r, use)
				if err != nil {
					t.Error(err)
				}
				got[i] = string(v.Expose())
			})
		}
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) { // while the value is not made yet
			t.Errorf("who left: %v", err)
		}
		close(m.gate)
		wg.Wait()
		for _, g := range got {
			if g != got[0] || g == "" {
				t.Errorf("%q", got)
			}
		}
		if m.made.Load() != 1 {
			t.Errorf("made %d", m.made.Load())
		}
	})
}

func TestFailuresAndRefusals(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, m := mintWorld(t, db, secrets.Traits{}, time.Hour)
		m.fail.Store(true)
		if _, err := w.as("a"); fault.KindOf(err) != fault.Upstream {
			t.Errorf("%v", err)
		}
		m.fail.Store(false)
		w.clock.add(2 * time.Second) // a failure is remembered for a second
		first, err := w.as("a")
		if err != nil {
			t.Fatal(err)
		}
		use := secrets.Use{Secret: "key", Connection: "openai"}
		w.Rejected(use)
		if again, _ := w.as("a"); again != first {
			t.Error("one that is seconds old was given up")
		}
		w.clock.add(time.Minute)
		w.Rejected(secrets.Use{Secret: "key", Connection: "other"})
		if again, _ := w.as("a"); again != first {
			t.Error("another connection's refusal counted")
		}
		w.Rejected(use)
		w.Rejected(use)
		if again, _ := w.as("a"); again == first || m.made.Load() != 2 {
			t.Error("a refused one was kept")
		}
		if len(m.released) != 1 {
			t.Errorf("released %v", m.released)
		}
		if err := w.Delete(ctx, w.by, "because", "key"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.as("a"); !errors.Is(err, secrets.ErrNotFound) || len(m.released) != 2 {
			t.Errorf("%v, released %v", err, m.released)
		}
	})
}

func TestWhatDoesNotSayWhenItEndsIsUsedOnce(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, m := mintWorld(t, db, secrets.Traits{}, 0)
		a, _ := w.as("a")
		b, err := w.as("a")
		if a == b || err != nil || m.made.Load() != 2 {
			t.Errorf("%q %q %v", a, b, err)
		}
	})
}

func TestMintedCredentialsAreRedacted(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, _ := mintWorld(t, db, secrets.Traits{}, time.Hour)
		token, err := w.as("a")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(w.scanner.Redact([]byte("it says " + token))); strings.Contains(got, token) {
			t.Error(got)
		}
		w.clock.add(2 * time.Hour)
		if _, err := w.as("a"); err != nil { // forgets those whose time is over
			t.Fatal(err)
		}
		if got := string(w.scanner.Redact([]byte("it says " + token))); !strings.Contains(got, "minted-a") {
			t.Errorf("it is remembered for ever: %s", got)
		}
	})
}

func TestUnknownKindsAreRefused(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w, _ := mintWorld(t, db, secrets.Traits{}, time.Hour)
		for what, s := range map[string]secrets.Spec{
			"kind":     {Kind: "nonsense"},
			"settings": {Kind: "minted", Settings: map[string]string{"bad": "x"}},
			"of value": {Settings: map[string]string{"x": "y"}},
			"source":   {Source: "nowhere://x"},
			"no by":    {Rotation: map[string]string{"every": "1d"}},
			"rotator":  {Rotation: map[string]string{"by": "nobody"}},
			"both":     {Source: "env://X", Rotation: map[string]string{"by": "x"}},
		} {
			s.Name, s.Owner, s.Connection = "other", "pat", "openai"
			if _, err := w.Put(ctx, w.by, "because", s, secrets.NewValue([]byte(plain))); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}
