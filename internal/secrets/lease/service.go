package lease

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// Watched is the name under which leases that were ended are announced.
const Watched = "secret_leases"

// Options of a Service.
type Options struct {
	DB       *storage.DB
	Log      *audit.Log
	Watch    *storage.Watcher
	Secrets  *secrets.Service
	Findings *findings.Service
	Makers   map[string]Maker // by kind

	// Held reports whether nothing may be ended now (a restored database that
	// nobody has looked at). May be nil.
	Held    func(context.Context) bool
	Now     func() time.Time
	Backoff func(n int) time.Duration // of the n-th repetition; nil: 2 s, doubled, at most 5 minutes
	Logger  *slog.Logger
}

// Service makes leases and, on one replica at a time, ends them.
type Service struct {
	Options
	holder string
	lease  *job.Lease
	wake   chan struct{}
	work   sync.WaitGroup // releases on their way

	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{}
}

const (
	leaseTTL  = time.Minute
	workTime  = 30 * time.Second
	lookEvery = time.Second
	// uncertain is how long after a failure to make a credential it is ended:
	// the provider may still be about to make it.
	uncertain = 30 * time.Second
)

// New returns a stopped Service and makes its kinds known to o.Secrets.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Backoff == nil {
		o.Backoff = func(n int) time.Duration { return min(2*time.Second<<min(n, 9), 5*time.Minute) }
	}
	s := &Service{Options: o, holder: job.Holder(""), lease: job.NewLease(o.DB, "secrets/lease", leaseTTL), wake: make(chan struct{}, 1)}
	for kind, m := range o.Makers {
		o.Secrets.Handle(kind, minter{s, m})
	}
	o.Secrets.Notes(s.notes)
	o.Secrets.OnDelete(s.keep)
	o.Secrets.OnReseal(reseal)
	o.Watch.On(Watched, s.ended)
	return s
}

// minter makes leases of one kind; it is a secrets.Minter.
type minter struct {
	s *Service
	m Maker
}

// Check implements secrets.Minter.
func (m minter) Check(spec secrets.Spec) error {
	_, rest, err := settings(spec.Settings)
	if err != nil {
		return err
	}
	return m.m.Check(rest)
}

// Traits implements secrets.Minter.
func (m minter) Traits() secrets.Traits { return secrets.Traits{Each: true} }

// Mint implements secrets.Minter: the lease is known before the credential is.
func (m minter) Mint(ctx context.Context, in secrets.Material) (secrets.Minted, error) {
	ttl, rest, err := settings(in.Secret.Settings)
	if err != nil {
		return secrets.Minted{}, err
	}
	now := m.s.Now()
	l := Lease{ID: id.At("lse", now), Secret: in.Secret.Name, secretID: in.Secret.ID, Kind: in.Secret.Kind, Agent: in.Use.Agent, Connection: in.Secret.Connection,
		Owner: in.Secret.Owner, Call: in.Use.Call, holder: m.s.holder, Issued: now, Expires: now.Add(ttl).Truncate(time.Second), State: Live}
	l.due = l.Expires
	credential, name, err := m.m.Plan(l, in.Value)
	if err != nil {
		return secrets.Minted{}, err
	}
	l.Name = name
	if err := m.s.Log.Change(ctx, func(tx *audit.Tx) error {
		l := l
		if l.sealed, err = m.s.Secrets.KeepTx(ctx, tx, l.label(), credential); err != nil {
			return err
		}
		m.s.record(tx, "lease.issued", audit.System, "", l, nil)
		return insert(ctx, tx, l)
	}); err != nil {
		return secrets.Minted{}, err
	}
	if err := m.m.Make(ctx, l, in.Value, credential, rest); err != nil {
		credential.Wipe()
		m.s.release(l, "it could not be made", m.s.Now().Add(uncertain))
		return secrets.Minted{}, err
	}
	return secrets.Minted{Value: credential, Expires: l.Expires, Detail: map[string]string{"lease": l.ID, "name": l.Name},
		Release: func(why string) { m.s.release(l, why, m.s.Now()) }}, nil
}

// release makes a lease due, in the background.
func (s *Service) release(l Lease, why string, due time.Time) {
	s.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), workTime)
		defer cancel()
		err := s.Log.Change(ctx, func(tx *audit.Tx) error {
			_, err := s.endTx(ctx, tx, audit.System, why, l, due)
			return err
		})
		if err != nil { // it ends when its time is over
			s.Logger.Warn("a lease could not be given back early", "lease", l.ID, "error", err)
		}
		s.Wake()
	})
}

func (s *Service) endTx(ctx context.Context, tx *audit.Tx, by audit.Actor, why string, l Lease, due time.Time) (bool, error) {
	was, err := hasten(ctx, tx, l.ID, why, due)
	if err != nil || !was {
		return false, err
	}
	s.record(tx, "lease.ended", by, why, l, nil)
	return true, storage.Bump(ctx, tx.Tx, Watched)
}

// Which selects leases; empty fields select all.
type Which struct{ ID, Secret, Agent, Connection string }

// End ends live leases now, before their time, and returns how many.
func (s *Service) End(ctx context.Context, by audit.Actor, reason string, which Which) (n int, err error) {
	err = s.Log.Change(ctx, func(tx *audit.Tx) error {
		n, err = s.EndTx(ctx, tx, by, reason, which)
		return err
	})
	if err == nil {
		if perr := s.Watch.Poll(ctx); perr != nil {
			s.Logger.Warn("leases were ended, but the view could not be reloaded", "error", perr)
		}
	}
	s.Wake()
	return n, err
}

// EndTx is End inside a change, for other rooms: a lock on an agent ends its
// leases. The caller polls the watcher after its commit.
func (s *Service) EndTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, which Which) (int, error) {
	if len(reason) > 1000 || !utf8.ValidString(reason) {
		return 0, secrets.ErrReason
	}
	all, err := rows(ctx, tx, s.Now(), where, which.ID, which.Secret, which.Agent, which.Connection)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, l := range all {
		was, err := s.endTx(ctx, tx, by, reason, l, s.Now())
		if err != nil {
			return n, err
		}
		if was {
			n++
		}
	}
	return n, nil
}

const where = `WHERE ($1 = '' OR id = $1) AND ($2 = '' OR secret = $2) AND ($3 = '' OR agent = $3) AND ($4 = '' OR connection = $4) ORDER BY issued`

// List returns the leases that have not been seen to be dead, oldest first.
func (s *Service) List(ctx context.Context, which Which) ([]Lease, error) {
	return rows(ctx, s.DB, s.Now(), where, which.ID, which.Secret, which.Agent, which.Connection)
}

// ended gives up what this replica still has of leases that were ended.
func (s *Service) ended(ctx context.Context) error {
	over, err := rows(ctx, s.DB, s.Now(), `WHERE holder = $1 AND due <= $2`, s.holder, storage.Micros(s.Now()))
	if err != nil {
		return err
	}
	for _, l := range over {
		s.Secrets.Forget(l.secretID, "lease", l.ID)
	}
	return nil
}

// keep refuses to delete a secret with leases: nothing else could end them.
func (s *Service) keep(ctx context.Context, tx *audit.Tx, sec secrets.Secret) error {
	all, err := rows(ctx, tx, s.Now(), `WHERE secret_id = $1`, sec.ID)
	if err != nil || len(all) == 0 {
		return err
	}
	return ErrAlive.Say("the secret %s has %d leases that have not ended: countersign secret revoke %s, and then again", sec.Name, len(all), sec.Name)
}

func (s *Service) notes(ctx context.Context, all map[string]secrets.Note) error {
	leases, err := s.List(ctx, Which{})
	if err != nil {
		return err
	}
	for _, l := range leases {
		n := all[l.Secret]
		if l.State == Zombie {
			n.Zombies++
		} else {
			n.Leases++
		}
		all[l.Secret] = n
	}
	return nil
}

func (s *Service) record(tx *audit.Tx, t audit.Type, by audit.Actor, reason string, l Lease, more map[string]string) {
	detail := map[string]string{"lease": l.ID, "name": l.Name, "expires": l.Expires.UTC().Format(time.RFC3339)}
	maps.Copy(detail, more)
	raw, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		raw = nil // cannot be: texts made by us
	}
	tx.Record(audit.Event{Type: t, Actor: by, Reason: reason, Agent: l.Agent, Owner: l.Owner, Call: l.Call, Connection: l.Connection, Object: "secret/" + l.Secret, Detail: raw})
}

// Look ends what is due now, once, if this replica holds the lease for it.
func (s *Service) Look(ctx context.Context) error {
	if s.Held != nil && s.Held(ctx) {
		return nil
	}
	if ok, err := s.lease.Acquire(ctx); err != nil || !ok {
		return err
	}
	now := s.Now()
	due, err := rows(ctx, s.DB, now, `WHERE due <= $1 ORDER BY due LIMIT 100`, storage.Micros(now))
	if err != nil {
		return err
	}
	for _, l := range due {
		if err := s.kill(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// kill ends one lease at its provider. Its error is about us; the provider's
// are stored with the lease.
func (s *Service) kill(ctx context.Context, l Lease) error {
	err := s.atProvider(ctx, l)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err := s.change(ctx, func(tx *audit.Tx) error {
			s.record(tx, "lease.revoked", audit.System, l.Why, l, map[string]string{"verified": "a login was refused"})
			if err := remove(ctx, tx, l.ID); err != nil {
				return err
			}
			rest, err := rows(ctx, tx, s.Now(), `WHERE secret_id = $1 AND attempts > 0`, l.secretID)
			if err != nil || len(rest) > 0 {
				return err
			}
			return s.Findings.CloseObjectTx(ctx, tx, audit.System, "secret/"+l.Secret, "all were ended", ruleZombie)
		})
		if err == nil {
			s.Secrets.Unlearn(l.label())
		}
		return err
	}
	s.Logger.Warn("a lease could not be ended; it is tried again", "lease", l.ID, "name", l.Name, "attempt", l.Attempts+1, "error", err)
	l.due, l.Error = s.Now().Add(s.Backoff(l.Attempts)), fault.Public(err).Message
	l.Attempts++
	return s.change(ctx, func(tx *audit.Tx) error {
		if l.Attempts >= patience {
			if err := s.Findings.OpenTx(ctx, tx, findings.Finding{Rule: ruleZombie, Severity: findings.High, Object: "secret/" + l.Secret,
				Title: "leases of " + l.Secret + " could not be ended", Detail: "countersign secret leases shows them. It is tried until it works: " + l.Error}); err != nil {
				return err
			}
		}
		s.record(tx, "lease.revocation_failed", audit.System, "", l, map[string]string{"error": l.Error, "attempt": fmt.Sprint(l.Attempts)})
		return postpone(ctx, tx, l)
	})
}

const (
	ruleZombie = "lease.not_ended"
	patience   = 3 // attempts before a finding
)

func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	return s.Log.Change(ctx, func(tx *audit.Tx) error {
		if err := s.lease.Check(ctx, tx.Tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

func (s *Service) atProvider(ctx context.Context, l Lease) error {
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	call := id.New(id.Call)
	receipt, err := s.Log.Intent(ctx, audit.Event{Actor: audit.System, Call: call, Agent: l.Agent, Owner: l.Owner, Connection: l.Connection, Tool: "lease/end", Object: "secret/" + l.Secret, Reason: l.ID})
	if err != nil {
		return err
	}
	err = s.endWith(ctx, receipt, call, l)
	end := &audit.Outcome{Status: audit.Succeeded}
	if err != nil {
		end.Status, end.Error = audit.Failed, fault.Public(err).Message
	}
	s.Log.Outcome(receipt, audit.Event{Actor: audit.System, Outcome: end})
	return err
}

func (s *Service) endWith(ctx context.Context, receipt audit.Receipt, call string, l Lease) error {
	_, versions, err := s.Secrets.Reveal(ctx, receipt, call, l.Secret)
	if err != nil {
		return err
	}
	defer func() {
		for _, v := range versions {
			v.Value.Wipe()
		}
	}()
	credential, err := s.Secrets.Kept(l.label(), l.sealed)
	if err != nil {
		return err
	}
	defer credential.Wipe()
	m := s.Makers[l.Kind]
	if m == nil {
		return secrets.ErrKind.Say("the lease is of the kind %s, which is not known here", l.Kind)
	}
	return m.End(ctx, l, versions[secrets.Current].Value, credential)
}
