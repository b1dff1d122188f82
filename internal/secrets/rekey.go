package secrets

import (
	"context"
	"encoding/binary"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// The phases of a rekey.
const (
	PhaseReseal     = "reseal"     // values are sealed anew, under a new key of the keyset
	PhaseDistribute = "distribute" // all are; replicas are waited for that do not hold the next key
	PhaseDone       = "done"       // the keyset and the log's key are sealed with the next key only
)

// Rekey is one replacement of the key and of the keyset's key.
type Rekey struct {
	ID       string
	Phase    string
	By       audit.Actor
	Reason   string
	Resealed int64  // values sealed anew so far
	Error    string // why it does not go on
	Started  time.Time
	Updated  time.Time
	Finished time.Time

	probe []byte // sealed with the next key; empty if the key in use stays
}

// errWait undoes the last step of a rekey when something is still sealed under
// the old key.
var errWait = errors.New("secrets: something is still sealed under the old key")

// RuleRekey is the rule of the finding about a rekey that does not end.
const RuleRekey = "key.rekey_unfinished"

// keysObject is what events and findings about keys are about.
const keysObject = "secrets"

// RekeyOptions of a Rekeyer.
type RekeyOptions struct {
	Findings *findings.Service
	Replica  string                                      // this one's name
	Alive    func(ctx context.Context) ([]string, error) // the names of all replicas that are there
	Patience time.Duration                               // after which an unfinished rekey is a finding; 0: one hour
	Batch    int                                         // values in one transaction; 0: 100
}

// Rekeyer replaces the key that seals everything and the key of the keyset,
// while the server works:
//
//  1. A new key joins the keyset and seals from now on; it still opens with the
//     old one. (One change, with its event.)
//  2. Every stored value is sealed anew, in batches.
//  3. When every replica that is there holds the next key, one change seals
//     keyset and log key with that alone, and drops the old key of the keyset.
//     If anything was still sealed under that, it would not commit.
//  4. Each replica puts the next key in the place of the old one.
//
// Where it stands is in the database. Killed at any instant, the next process
// goes on.
type Rekeyer struct {
	s     *Service
	o     RekeyOptions
	lease *job.Lease
	wake  chan struct{}

	after string // the last row of the batch before, by which the next begins
	at    int    // the resealer that is at work
	bad   []string

	cancel context.CancelFunc
	done   chan struct{}
}

// Batch is what a Resealer has to do.
type Batch struct {
	Tx     *storage.Tx
	Prefix []byte // of the values that are to be sealed anew
	After  string // where the batch before ended, in the Resealer's order; to be brought up to date
	Limit  int    // of rows
	Found  int    // rows there were, to be counted by the Resealer

	m   *master
	bad []string
}

// Resealer seals the next rows of a Batch anew.
type Resealer func(ctx context.Context, b *Batch) error

// OnReseal registers who seals anew what KeepTx sealed. It must be called before
// the Service is used.
func (s *Service) OnReseal(fn Resealer) { s.reseals = append(s.reseals, fn) }

// Kept seals anew what KeepTx sealed.
func (b *Batch) Kept(label string, sealed []byte) ([]byte, error) {
	plain, err := b.m.decrypt(sealed, keptContext(label))
	if err != nil {
		return nil, ErrSealed
	}
	defer clear(plain)
	return b.m.aead.Encrypt(plain, keptContext(label))
}

// Fail says that a row cannot be opened. Nothing is lost by it: the old key
// stays until somebody has mended or deleted the row.
func (b *Batch) Fail(what string) { b.bad = append(b.bad, what) }

// Rekeyer returns a stopped Rekeyer of s.
func (s *Service) Rekeyer(o RekeyOptions) *Rekeyer {
	if o.Patience <= 0 {
		o.Patience = time.Hour
	}
	if o.Batch <= 0 {
		o.Batch = 100
	}
	return &Rekeyer{s: s, o: o, lease: job.NewLease(s.db, "secrets/rekey", 5*time.Second), wake: make(chan struct{}, 1)}
}

// Begin begins a rekey and returns it, or the one that is under way. A next key
// file is made if there is none. again is for a next key that was lost or has
// become known: the rekey under way goes to the one that this replica holds.
func (r *Rekeyer) Begin(ctx context.Context, by audit.Actor, reason string, again bool) (Rekey, error) {
	if err := checkReason(reason); err != nil {
		return Rekey{}, err
	}
	if err := r.s.keys.make(); err != nil {
		return Rekey{}, err
	}
	next, err := r.s.keys.Next(ctx)
	if err != nil {
		return Rekey{}, err
	}
	var k Rekey
	err = r.s.change(ctx, func(tx *audit.Tx) error {
		k, err = r.begin(ctx, tx, by, reason, next, again)
		return err
	})
	r.Wake()
	return k, err
}

func (r *Rekeyer) begin(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, next Keeper, again bool) (Rekey, error) {
	m, err := r.s.fenced(ctx, tx.Tx)
	if err != nil {
		return Rekey{}, err
	}
	open, err := rekeys(ctx, tx, `WHERE finished = 0`)
	if err != nil || len(open) > 0 && !again {
		return first(open), err
	}
	now := r.s.now()
	k := Rekey{ID: id.At("rky", now), Phase: PhaseReseal, By: by, Reason: reason, Started: now, Updated: now}
	event := audit.Type("secret.rekey_begun")
	if len(open) > 0 {
		k, event = open[0], "secret.rekey_redirected"
		k.Updated = now
	}
	if k.probe, err = probe(ctx, next, k.ID); err != nil {
		return k, err
	}
	if len(open) > 0 {
		err = redirectRekey(ctx, tx, k)
	} else if err = insertRekey(ctx, tx, k); err == nil {
		err = r.addKey(ctx, tx, m)
	}
	if err != nil {
		return k, err
	}
	tx.Record(audit.Event{Type: event, Actor: by, Reason: reason, Object: keysObject, Detail: detail(map[string]any{"rekey": k.ID, "key": r.s.keys.kind(), "another_key": next != nil})})
	return k, storage.Bump(ctx, tx.Tx, Watched)
}

func first(all []Rekey) Rekey {
	if len(all) == 0 {
		return Rekey{}
	}
	return all[0]
}

func detail(m map[string]any) []byte {
	b, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		return nil // cannot be: texts and numbers
	}
	return b
}

// probe lets a replica find out whether it holds the next key.
func probe(ctx context.Context, next Keeper, rekey string) ([]byte, error) {
	if next == nil {
		return []byte{}, nil
	}
	b, err := next.Seal(ctx, []byte("countersign rekey v1\x00"+rekey))
	if err != nil {
		return nil, ErrKeeper.Say("the next key could not seal; check that it may be used to encrypt").With(err)
	}
	return b, nil
}

// addKey makes a new key the one that the keyset seals with.
func (r *Rekeyer) addKey(ctx context.Context, tx *audit.Tx, m *master) error {
	manager := keyset.NewManagerFromHandle(m.handle)
	added, err := manager.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("secrets: add a key: %w", err)
	}
	if err := manager.SetPrimary(added); err != nil {
		return fmt.Errorf("secrets: add a key: %w", err)
	}
	handle, err := manager.Handle()
	if err != nil {
		return fmt.Errorf("secrets: add a key: %w", err)
	}
	return putKeyset(ctx, tx, m, handle, r.s.keys)
}

// putKeyset stores a keyset in place of m, and the seed sealed with it.
func putKeyset(ctx context.Context, tx *audit.Tx, m *master, handle *keyset.Handle, keeper Keeper) error {
	sealed, err := sealKeyset(ctx, keeper, handle)
	if err != nil {
		return err
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return fmt.Errorf("secrets: use keyset: %w", err)
	}
	seed, err := primitive.Encrypt(m.seed, seedContext)
	if err != nil {
		return fmt.Errorf("secrets: seal seed: %w", err)
	}
	if err := tx.ExecOne(ctx, `UPDATE secret_keys SET sealed = $1, generation = generation + 1 WHERE name = $2 AND generation = $3`, sealed, keysetRow, m.generation); err != nil {
		return err
	}
	return tx.ExecOne(ctx, `UPDATE secret_keys SET sealed = $1 WHERE name = $2`, seed, seedRow)
}

// prefixLen is how long Tink's prefix of a sealed value is: a version and which
// key of the keyset sealed it.
const prefixLen = 5

// former returns the prefixes of what keys other than the present one sealed.
func (m *master) formerPrefixes() ([][]byte, error) {
	var out [][]byte
	for i := range m.handle.Len() {
		e, err := m.handle.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("secrets: read keyset: %w", err)
		}
		if !e.IsPrimary() {
			out = append(out, binary.BigEndian.AppendUint32([]byte{1}, e.KeyID()))
		}
	}
	return out, nil
}

// Look does the next part of a rekey, if there is one to do; more says that
// there is another at once.
func (r *Rekeyer) Look(ctx context.Context) (more bool, err error) {
	open, err := rekeys(ctx, r.s.db, `WHERE finished = 0`)
	if err != nil || len(open) == 0 {
		return false, err
	}
	k := open[0]
	target, err := r.target(ctx, k)
	if err != nil {
		return false, err
	}
	if target != nil {
		if err := holdRekey(ctx, r.s.db, k.ID, r.o.Replica, r.s.now()); err != nil {
			return false, err
		}
	}
	if ok, err := r.lease.Acquire(ctx); err != nil || !ok {
		return false, err
	}
	err = r.overdue(ctx, k)
	switch {
	case err != nil:
	case k.Phase == PhaseReseal:
		return r.reseal(ctx, k)
	case target == nil:
		err = r.stuck(ctx, k, "this replica does not hold the next key; another may finish: see countersign key status")
		return false, errors.Join(err, r.lease.Release(ctx))
	default:
		err = r.finish(ctx, k, target)
	}
	return false, err
}

// target returns the key that a rekey goes to, if this replica holds it.
func (r *Rekeyer) target(ctx context.Context, k Rekey) (Keeper, error) {
	if len(k.probe) == 0 {
		return r.s.keys, nil
	}
	next, err := r.s.keys.Next(ctx)
	if err != nil || next == nil || !opens(ctx, next, k.probe) {
		return nil, err
	}
	return next, nil
}

// reseal seals the next values anew, under the newest key.
func (r *Rekeyer) reseal(ctx context.Context, k Rekey) (more bool, err error) {
	var b *Batch
	at := r.at
	err = r.s.db.Tx(ctx, func(tx *storage.Tx) error {
		if err := r.lease.Check(ctx, tx); err != nil {
			return err
		}
		after := r.after
		for at = r.at; at < len(r.s.reseals); at, after = at+1, "" {
			if b, err = r.batch(ctx, tx, at, after, r.o.Batch); err != nil || b.Found > 0 {
				break
			}
		}
		if err != nil {
			return err
		}
		if at == len(r.s.reseals) && len(r.bad) == 0 {
			return setPhase(ctx, tx, k.ID, PhaseDistribute, r.s.now())
		}
		return progress(ctx, tx, k.ID, b.Found-len(b.bad), r.s.now())
	})
	if err == nil && at < len(r.s.reseals) {
		r.at, r.after, r.bad = at, b.After, append(r.bad, b.bad...)
		return true, nil
	}
	bad := r.bad
	r.at, r.after, r.bad = 0, "", nil // the next time from the beginning; what is done is done
	if err != nil || len(bad) == 0 {
		return err == nil, err
	}
	slices.Sort(bad)
	return false, r.stuck(ctx, k, strings.Join(slices.Compact(bad), ", ")+" cannot be opened; put it again or delete it, then this goes on by itself")
}

// batch lets one resealer seal what stands under former keys.
func (r *Rekeyer) batch(ctx context.Context, tx *storage.Tx, at int, after string, limit int) (*Batch, error) {
	m, err := r.s.fenced(ctx, tx)
	if err != nil {
		return nil, err
	}
	prefixes, err := m.formerPrefixes()
	if err != nil {
		return nil, err
	}
	b := &Batch{Tx: tx, After: after, Limit: limit, m: m}
	for _, p := range prefixes {
		if b.Prefix = p; b.Found == 0 {
			err = r.s.reseals[at](ctx, b)
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// finish makes the next key the only one, if all replicas hold it and nothing
// is sealed under a former key of the keyset.
func (r *Rekeyer) finish(ctx context.Context, k Rekey, target Keeper) error {
	missing, err := r.missing(ctx, k)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return r.stuck(ctx, k, "these replicas do not hold the next key: "+strings.Join(missing, ", "))
	}
	again := false
	err = r.s.change(ctx, func(tx *audit.Tx) error {
		if err := r.lease.Check(ctx, tx.Tx); err != nil {
			return err
		}
		for at := range r.s.reseals {
			b, err := r.batch(ctx, tx.Tx, at, "", 1)
			if err != nil {
				return err
			}
			if again = b.Found > 0; again {
				return errWait
			}
		}
		return r.finishTx(ctx, tx, k, target)
	})
	if again {
		return r.s.db.Tx(ctx, func(tx *storage.Tx) error { return setPhase(ctx, tx, k.ID, PhaseReseal, r.s.now()) })
	}
	return err
}

func (r *Rekeyer) finishTx(ctx context.Context, tx *audit.Tx, k Rekey, target Keeper) error {
	m, err := r.s.fenced(ctx, tx.Tx)
	if err != nil {
		return err
	}
	manager := keyset.NewManagerFromHandle(m.handle)
	for i := range m.handle.Len() {
		e, err := m.handle.Entry(i)
		if err == nil && !e.IsPrimary() {
			err = manager.Delete(e.KeyID())
		}
		if err != nil {
			return fmt.Errorf("secrets: drop a key: %w", err)
		}
	}
	handle, err := manager.Handle()
	if err != nil {
		return fmt.Errorf("secrets: drop a key: %w", err)
	}
	if err := putKeyset(ctx, tx, m, handle, target); err != nil {
		return err
	}
	if err := r.s.log.RewrapTx(ctx, tx, target); err != nil {
		return err
	}
	if err := endRekey(ctx, tx, k.ID, r.s.now()); err != nil {
		return err
	}
	tx.Record(audit.Event{Type: "secret.rekeyed", Actor: k.By, Reason: k.Reason, Object: keysObject,
		Detail: detail(map[string]any{"rekey": k.ID, "resealed": k.Resealed, "another_key": len(k.probe) > 0})})
	if r.o.Findings != nil {
		if err := r.o.Findings.CloseObjectTx(ctx, tx, audit.System, keysObject, "the rekey has ended", RuleRekey); err != nil {
			return err
		}
	}
	return storage.Bump(ctx, tx.Tx, Watched)
}

// missing returns the replicas that are there and do not hold the next key.
func (r *Rekeyer) missing(ctx context.Context, k Rekey) ([]string, error) {
	if len(k.probe) == 0 || r.o.Alive == nil {
		return nil, nil
	}
	alive, err := r.o.Alive(ctx)
	if err != nil {
		return nil, err
	}
	holders, err := rekeyHolders(ctx, r.s.db, k.ID)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(alive, func(name string) bool { return slices.Contains(holders, name) }), nil
}

// stuck notes why a rekey does not go on.
func (r *Rekeyer) stuck(ctx context.Context, k Rekey, why string) error {
	if k.Error == why {
		return nil
	}
	return r.s.db.Tx(ctx, func(tx *storage.Tx) error { return rekeyError(ctx, tx, k.ID, why, r.s.now()) })
}

// overdue opens a finding about a rekey that takes too long.
func (r *Rekeyer) overdue(ctx context.Context, k Rekey) error {
	if r.o.Findings == nil || r.s.now().Sub(k.Started) < r.o.Patience {
		return nil
	}
	why := k.Error
	if why == "" {
		why = "it is at the phase " + k.Phase
	}
	return r.o.Findings.Open(ctx, findings.Finding{Rule: RuleRekey, Severity: findings.Medium, Object: keysObject,
		Title: "A rekey does not end: the old key still opens everything", Detail: k.ID + ": " + why})
}
