package runs

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json/jsontext"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// ErrStored is returned when what is known of runs cannot be read or written.
var ErrStored = fault.New(fault.Unavailable, "runs_unavailable", "to which run the call belongs cannot be looked up; try again")

const (
	cached     = 20_000                 // values of each kind in memory, twice
	sweepEvery = 5 * time.Minute        // how often what is too old is removed
	lazily     = 250 * time.Millisecond // how long what nobody waits for is gathered
	wait       = 10 * time.Second       // the longest that a write of ours may take
	mostRuns   = 32                     // runs to which the links of one request lead
)

// Options of a Service. Derive must be set.
type Options struct {
	Derive func(label string) []byte // 32 bytes for a label
	Now    func() time.Time
	Logger *slog.Logger
}

// digest stands for a proposal or a link, under our key.
type digest [16]byte

// Service knows runs, on every replica alike. It is safe for concurrent use.
type Service struct {
	db  *storage.DB
	o   Options
	key []byte

	proposals *cache[proposed]
	links     *cache[linked]

	mu      sync.Mutex
	next    *batch // what the next transaction writes
	timer   *time.Timer
	swept   time.Time
	minute  int64          // since 1970, that added counts
	added   map[string]int // rows by agent in the present minute
	writing sync.Mutex     // one transaction at a time
}

// batch is what one transaction writes.
type batch struct {
	proposals []proposed
	links     []linked
	touches   []touched
	led       bool // somebody waits, and writes it
	done      chan struct{}
	err       error
}

// New returns a service that keeps what it knows in db.
func New(db *storage.DB, o Options) (*Service, error) {
	if o.Derive == nil {
		return nil, errors.New("runs: Derive is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{db: db, o: o, key: o.Derive("runs/digest/v1"), proposals: newCache[proposed](cached), links: newCache[linked](cached), added: map[string]int{}}, nil
}

// Close writes what nobody waited for. Calls after it are lost.
func (s *Service) Close(context.Context) error {
	s.mu.Lock()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	return s.flush()
}

// Propose remembers what an answer proposes, durably, and by what it can be
// continued. What is over a limit, or cannot be read, was not proposed.
func (s *Service) Propose(x Exchange, list []Proposal, links []Link) error {
	now := s.o.Now()
	var rows []proposed
	for _, p := range list[:min(len(list), MaxProposals)] {
		args, err := canonical(p.Args)
		if err != nil || p.Tool == "" {
			s.o.Logger.Info("a model proposed a call whose arguments cannot be read; it counts for nothing", "call", x.Call, "error", err)
			continue
		}
		rows = append(rows, proposed{id: id.At(id.Event, now), digest: s.proposal(x.Agent, p.Tool, args), Exchange: x, at: storage.Micros(now), until: storage.Micros(now.Add(Fresh))})
	}
	ties := s.tie(x, links, now)
	s.mu.Lock()
	if !s.room(x.Agent, len(rows)+len(ties), now) {
		s.mu.Unlock()
		s.o.Logger.Warn("an agent's models answer too much to be remembered; what they propose counts for nothing", "agent", x.Agent)
		return nil
	}
	b := s.batch(now)
	b.proposals, b.links = append(b.proposals, rows...), append(b.links, ties...)
	if len(rows) == 0 {
		s.later(b)
		s.mu.Unlock()
		return nil
	}
	err := s.commit(b)
	if err == nil {
		for _, p := range rows {
			s.proposals.put(p.digest, p)
		}
	}
	return err
}

// tie remembers links here and returns them as rows.
func (s *Service) tie(x Exchange, links []Link, now time.Time) []linked {
	var rows []linked
	for _, l := range links[:min(len(links), MaxLinks)] {
		row := linked{digest: s.link(x.Agent, l), Exchange: x, at: storage.Micros(now)}
		if was, ok := s.links.get(row.digest); ok && was.Run == x.Run && was.Memory == x.Memory {
			continue
		}
		s.links.put(row.digest, row)
		rows = append(rows, row)
	}
	return rows
}

// room reports whether an agent may add n rows now, and counts them. The caller
// holds the mutex.
func (s *Service) room(agent string, n int, now time.Time) bool {
	if m := now.Unix() / 60; m != s.minute {
		s.minute, s.added = m, map[string]int{}
	}
	s.added[agent] += n
	return s.added[agent] <= maxMinute
}

// batch returns what is written next. The caller holds the mutex.
func (s *Service) batch(now time.Time) *batch {
	if s.next == nil {
		s.next = &batch{done: make(chan struct{})}
	}
	if now.Sub(s.swept) > sweepEvery {
		s.swept = now
		go s.sweep(now)
	}
	return s.next
}

func (s *Service) sweep(now time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := sweep(ctx, s.db, storage.Micros(now), storage.Micros(now.Add(-Keep))); err != nil {
		s.o.Logger.Warn("what old runs were known by could not be removed", "error", err)
	}
}

// commit makes a batch durable, together with whatever else comes meanwhile. The
// caller holds the mutex, which commit gives back.
func (s *Service) commit(b *batch) error {
	lead := !b.led
	b.led = true
	s.mu.Unlock()
	if !lead {
		<-b.done
		return b.err
	}
	return s.write(b)
}

// later has a batch written by whoever comes, or in a moment. The caller holds
// the mutex.
func (s *Service) later(b *batch) {
	if !b.led && s.timer == nil {
		s.timer = time.AfterFunc(lazily, func() {
			if err := s.flush(); err != nil {
				s.o.Logger.Warn("by what exchanges can be continued could not be written", "error", err)
			}
		})
	}
}

func (s *Service) flush() error {
	s.mu.Lock()
	s.timer = nil
	b := s.next
	if b == nil || b.led {
		s.mu.Unlock()
		return nil
	}
	return s.commit(b)
}

// write writes a batch, of which the caller is the one leader. It takes what
// comes until the transaction before it has ended.
func (s *Service) write(b *batch) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := s.db.Tx(ctx, func(tx *storage.Tx) error { return insert(ctx, tx, b) }); err != nil {
		b.err = ErrStored.With(err)
	}
	close(b.done)
	return b.err
}

// Continue returns the run that a request of an agent continues by its links, the
// newest first, and every other one that they lead to. With near it asks only what
// this process remembers.
func (s *Service) Continue(ctx context.Context, agent string, links []Link, near bool) (Thread, error) {
	var t Thread
	var far []digest
	for _, l := range links[:min(len(links), MaxLinks)] {
		d := s.link(agent, l)
		if row, ok := s.links.get(d); ok {
			t.add(row)
			continue
		}
		far = append(far, d)
	}
	if near || len(far) == 0 {
		return t, nil
	}
	rows, err := linksTo(ctx, s.db, agent, far, storage.Micros(s.o.Now().Add(-Keep)), mostRuns*MaxLinks)
	if err != nil {
		return Thread{}, ErrStored.With(err)
	}
	for _, row := range rows {
		t.add(row)
	}
	return t, nil
}

func (t *Thread) add(row linked) {
	if t.Run == "" {
		t.Run = row.Run
	}
	if !slices.Contains(t.Others, row.Memory) {
		t.Others = append(t.Others, row.Memory)
	}
}

// Match finds the proposal of a tool call, and uses it up if the query claims it.
func (s *Service) Match(ctx context.Context, q Query) (Match, bool, error) {
	args, err := canonical(q.Args)
	if err != nil {
		return Match{}, false, nil //nolint:nilerr // no proposal has arguments that cannot be read
	}
	now := storage.Micros(s.o.Now())
	digests := make([]digest, len(q.Names))
	for i, name := range q.Names {
		digests[i] = s.proposal(q.Agent, name, args)
		if p, ok := s.proposals.get(digests[i]); q.Claim == "" && ok && p.until >= now && (q.Run == "" || p.Run == q.Run) {
			return Match{Exchange: p.Exchange, ID: p.id}, true, nil
		}
	}
	if q.Near || len(digests) == 0 {
		return Match{}, false, nil
	}
	for {
		p, found, err := openProposal(ctx, s.db, q.Agent, q.Run, digests, now, q.Claim != "")
		switch {
		case err != nil:
			return Match{}, false, ErrStored.With(err)
		case !found:
			return Match{}, false, nil
		case q.Claim == "":
			s.proposals.put(p.digest, p)
			return Match{Exchange: p.Exchange, ID: p.id}, true, nil
		}
		won, err := claim(ctx, s.db, p.id, q.Claim)
		switch {
		case err != nil:
			return Match{}, false, ErrStored.With(err)
		case won: // else another call was faster: perhaps there is one more
			return Match{Exchange: p.Exchange, ID: p.id, claim: q.Claim}, true, nil
		}
	}
}

// Release gives back a proposal whose call was not made. One that waits for
// people counts until then, seven days at most.
func (s *Service) Release(ctx context.Context, m Match, until time.Time) error {
	if m.claim == "" {
		return nil
	}
	if most := s.o.Now().Add(maxUntil); until.After(most) {
		until = most
	}
	if err := release(ctx, s.db, m.ID, m.claim, storage.Micros(until)); err != nil {
		return ErrStored.With(err)
	}
	return nil
}

// Open returns the run of a credential that names none: the one that it is in on
// any replica, or run, which begins now after a pause of gap.
func (s *Service) Open(ctx context.Context, agent, credential, run string, now time.Time, gap time.Duration) (Opened, error) {
	found, started, err := open(ctx, s.db, agent, credential, run, storage.Micros(now), storage.Micros(now.Add(-gap)))
	if err != nil {
		return Opened{}, ErrStored.With(err)
	}
	return Opened{Run: found, Started: storage.Time(started)}, nil
}

// Touch notes, in a moment, that the run of a credential was used.
func (s *Service) Touch(agent, credential string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.batch(now)
	b.touches = append(b.touches, touched{agent, credential, storage.Micros(now)})
	s.later(b)
}

func (s *Service) proposal(agent, tool string, args jsontext.Value) digest {
	return s.digest("proposal", agent, tool, string(args))
}

func (s *Service) link(agent string, l Link) digest { return s.digest("link", agent, l.Kind, l.Text) }

// digest stands for parts; no two lists of parts are written alike.
func (s *Service) digest(parts ...string) (d digest) {
	h := hmac.New(sha256.New, s.key)
	for _, p := range parts {
		n := len(p)
		h.Write([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) //nolint:gosec // each byte of the length
		h.Write([]byte(p))
	}
	copy(d[:], h.Sum(nil))
	return d
}
