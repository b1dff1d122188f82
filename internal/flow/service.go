package flow

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// ErrStored is returned when what a run gathered cannot be read or written.
var ErrStored = fault.New(fault.Unavailable, "run_memory_unavailable", "what the run has read cannot be looked up; try again")

// Keep is how long what a run gathered is kept: the longest life of a run token.
const Keep = 12 * time.Hour

const (
	mostCached  = 2_000           // runs in memory; others are read again
	sweepEvery  = 5 * time.Minute // how often what is too old is removed
	maxStored   = 1 << 20         // bytes of one result; of a longer one nothing is kept, so nothing is endorsed
	forgetAfter = time.Hour       // a run in memory that nobody asked about
)

// Options of a Service. Derive must be set.
type Options struct {
	Derive func(label string) []byte // 32 bytes for a label
	Now    func() time.Time
	Logger *slog.Logger
}

// Service remembers what runs gathered, on every replica alike. It is safe for
// concurrent use.
type Service struct {
	db   *storage.DB
	o    Options
	aead cipher.AEAD

	mu    sync.Mutex
	runs  map[string]*run
	swept time.Time
}

// run is the memory of one run here.
type run struct {
	mu   sync.Mutex
	m    Memory
	seen map[string]bool // ids of rows that m holds, and digests of words
	used time.Time
}

// New returns a service that keeps its runs in db.
func New(db *storage.DB, o Options) (*Service, error) {
	if o.Derive == nil {
		return nil, errors.New("flow: Derive is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	block, err := aes.NewCipher(o.Derive("flow/run/v1"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Service{db: db, o: o, aead: aead, runs: map[string]*run{}}, nil
}

// entry is what a row holds. One of its members is set.
type entry struct {
	By     string   `json:"by,omitzero"`
	Words  string   `json:"words,omitzero"`
	Reads  *Spec    `json:"reads,omitzero"`
	Lost   bool     `json:"lost,omitzero"`
	Labels []string `json:"labels,omitempty"`
	From   string   `json:"from,omitzero"`
	// Readers is set of confidential content: who may know it.
	Readers *[]string `json:"readers,omitzero"`
	Result  *result   `json:"result,omitzero"`
}

type result struct {
	Spec  Spec   `json:"spec"`
	Tool  string `json:"tool"`
	Call  string `json:"call"`
	Wrote bool   `json:"wrote"`
	Body  []byte `json:"body"`
}

func (e entry) into(m *Memory) {
	switch {
	case e.Lost:
		m.Lost()
	case len(e.Labels) > 0:
		m.Label(e.Labels...)
	case e.Readers != nil:
		m.Confidential(*e.Readers)
	case e.From != "":
		m.from = append(m.from, e.From)
	case e.Reads != nil:
		m.Reads(*e.Reads)
	case e.Result != nil:
		r := e.Result
		m.Result(r.Spec, r.Tool, r.Call, r.Wrote, r.Body)
	default:
		m.Words(e.By, e.Words)
	}
}

// Words remembers what the user or the operator said in a run. What is said once
// the run has read untrusted content is not taken for theirs: applications put
// what tools answered into the words of the user, too.
func (s *Service) Words(ctx context.Context, name, by, words string) error {
	return s.with(ctx, name, func(r *run) error {
		if r.m.untrusted || words == "" || r.seen[said(by, words)] { // conversations are sent again and again
			return nil
		}
		return s.keep(ctx, name, r, entry{By: by, Words: words})
	})
}

// Reads remembers, durably, that a run is about to see what a tool answers.
func (s *Service) Reads(ctx context.Context, name string, spec Spec) error {
	return s.with(ctx, name, func(r *run) error {
		if spec.Source == Trusted || r.m.untrusted {
			return nil
		}
		return s.keep(ctx, name, r, entry{Reads: &spec})
	})
}

// Labels remembers, durably, that a run is about to see content that carries
// these labels.
func (s *Service) Labels(ctx context.Context, name string, labels []string) error {
	return s.with(ctx, name, func(r *run) error {
		if r.m.labelled(labels) {
			return nil
		}
		return s.keep(ctx, name, r, entry{Labels: labels})
	})
}

// Confidential remembers, durably, that a run is about to see what only these
// readers may know.
func (s *Service) Confidential(ctx context.Context, name string, readers []string) error {
	readers = united(readers, nil)
	return s.with(ctx, name, func(r *run) error {
		if r.m.knows(readers) {
			return nil
		}
		return s.keep(ctx, name, r, entry{Readers: &readers})
	})
}

// Lost remembers that a run did things while nobody watched it, whatever it
// gathered before: it counts as having read untrusted content, and nothing that
// it read endorses anything.
func (s *Service) Lost(ctx context.Context, name string) error {
	return s.with(ctx, name, func(r *run) error {
		if r.m.lost {
			return nil
		}
		return s.keep(ctx, name, r, entry{Lost: true})
	})
}

// Result remembers what a tool answered to a call. An answer that is too long
// endorses nothing.
func (s *Service) Result(ctx context.Context, name string, spec Spec, tool, call string, wrote bool, body []byte) error {
	if len(body) > maxStored {
		return nil
	}
	return s.with(ctx, name, func(r *run) error {
		return s.keep(ctx, name, r, entry{Result: &result{spec, tool, call, wrote, body}})
	})
}

// Judge says where the values of a call come from. It knows what was remembered
// on any replica before it began. What the runs that it continues have read
// labels it; only what it gathered itself endorses.
func (s *Service) Judge(ctx context.Context, name string, spec Spec, tool string, args jsontext.Value) (j Judgement, err error) {
	var from []string
	err = s.with(ctx, name, func(r *run) error {
		j, from = r.m.Judge(spec, tool, args), slices.Clone(r.m.from)
		return nil
	})
	if err != nil || len(from) == 0 {
		return j, err
	}
	c, err := s.carried(ctx, name, from)
	return j.Carrying(c), err
}

// with runs fn with the up-to-date memory of a run, alone.
func (s *Service) with(ctx context.Context, name string, fn func(*run) error) error {
	now := s.o.Now()
	s.mu.Lock()
	r := s.runs[name]
	if r == nil {
		r = &run{seen: map[string]bool{}}
		s.runs[name] = r
	}
	r.used = now
	due := s.sweep(now)
	s.mu.Unlock()
	if due {
		if err := forget(ctx, s.db, storage.Micros(now.Add(-Keep))); err != nil {
			s.o.Logger.Warn("what old runs gathered could not be removed", "error", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := s.catchUp(ctx, name, r, now); err != nil {
		return err
	}
	return fn(r)
}

// catchUp adds what other replicas, or this one before a restart, remembered.
func (s *Service) catchUp(ctx context.Context, name string, r *run, now time.Time) error {
	all, err := ids(ctx, s.db, name, storage.Micros(now.Add(-Keep)))
	if err != nil {
		return ErrStored.With(err)
	}
	for _, id := range all {
		if r.seen[id] {
			continue
		}
		sealed, err := sealedOf(ctx, s.db, id)
		if storage.NoRows(err) { // it just became too old
			continue
		}
		if err != nil {
			return ErrStored.With(err)
		}
		e, err := s.open(name, id, sealed)
		if err != nil {
			s.o.Logger.Error("what a run gathered cannot be read; nothing endorses its calls", "run", name, "error", err)
			e = entry{Lost: true}
		}
		r.add(id, e)
	}
	return nil
}

// keep makes an entry durable, then adds it.
func (s *Service) keep(ctx context.Context, name string, r *run, e entry) error {
	now := s.o.Now()
	w := row{id: id.At(id.Event, now)}
	plain, err := json.Marshal(e)
	if err == nil {
		w.sealed = s.aead.Seal(nil, nil, plain, bound(name, w.id))
		err = insert(ctx, s.db, name, storage.Micros(now), w)
	}
	if err != nil {
		return ErrStored.With(err)
	}
	r.add(w.id, e)
	return nil
}

func (r *run) add(id string, e entry) {
	r.seen[id] = true
	if e.Words != "" {
		r.seen[said(e.By, e.Words)] = true
	}
	e.into(&r.m)
}

func said(by, words string) string {
	sum := sha256.Sum256([]byte(by + "\n" + words))
	return string(sum[:])
}

func (s *Service) open(name, id string, sealed []byte) (e entry, err error) {
	plain, err := s.aead.Open(nil, nil, sealed, bound(name, id))
	if err == nil {
		err = json.Unmarshal(plain, &e)
	}
	return e, err
}

// bound ties a row to its run and its id.
func bound(name, id string) []byte { return []byte("countersign run\x00" + name + "\x00" + id) }

// sweep forgets runs that nobody asks about. It reports whether old rows are to
// be removed, too. The caller holds the mutex.
func (s *Service) sweep(now time.Time) bool {
	if len(s.runs) <= mostCached && now.Sub(s.swept) < sweepEvery {
		return false
	}
	s.swept = now
	for name, r := range s.runs {
		if now.Sub(r.used) > forgetAfter {
			delete(s.runs, name)
		}
	}
	if len(s.runs) > mostCached {
		byUse := slices.SortedFunc(maps.Keys(s.runs), func(a, b string) int { return s.runs[a].used.Compare(s.runs[b].used) })
		for _, name := range byUse[:len(byUse)-mostCached/2] {
			delete(s.runs, name)
		}
	}
	return true
}
