package detection

import (
	"context"
	"crypto/sha256"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/rates"
	"github.com/countersign/countersign/internal/storage"
)

// version is the name under which changes of rules and of what is in force are
// announced.
const version = "detection"

// Options of a Service.
type Options struct {
	Findings *findings.Service // is told what was found. Required.
	Locks    *locks.Service    // places locks. Required.
	// Labels returns an agent's labels as "key=value", in memory. Nil: none.
	Labels func(agent string) []string
	// Rotate begins, inside a change, to replace the upstream secret of a
	// connection. Nil: nothing is rotated.
	Rotate func(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, connection string) error
	// Seed makes what is kept of values unlike that of other installations.
	Seed   uint64
	Now    func() time.Time // nil means time.Now; throttled calls are counted by the database's clock then
	Logger *slog.Logger     // nil discards
}

// Service follows the log and acts. It is safe for concurrent use.
type Service struct {
	db    *storage.DB
	log   *audit.Log
	watch *storage.Watcher
	o     Options
	rates *rates.Service
	lease *job.Lease

	rules    atomic.Pointer[[]*rule] // by name; compiled once for each change
	postures atomic.Pointer[postures]
	changed  atomic.Bool // rules changed, or something was lifted
	stamp    string      // of the rules and of what was lifted; by reload alone

	follow *follower
	runs   *job.Follower
}

// New returns a stopped Service and registers its view with watch.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, o Options) (*Service, error) {
	if o.Findings == nil || o.Locks == nil {
		panic("detection: Findings and Locks must be set")
	}
	counted := rates.New(db, o.Now, o.Logger)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{db: db, log: log, watch: watch, o: o, rates: counted, lease: job.ReplicaLease(db, "detection", leaseTTL)}
	rules, err := assemble(nil, nil, o.Logger)
	if err != nil {
		return nil, err
	}
	s.rules.Store(&rules)
	s.postures.Store(newPostures(nil))
	s.follow = &follower{s: s}
	s.runs = s.follower()
	watch.On(version, s.reload)
	return s, nil
}

// assemble returns the rules in use: the built-in ones, those of people in place
// of them or beside them, each in its mode. A rule of people that an older version
// accepted and this one cannot run is left out, loudly.
func assemble(own []ruleRow, modes map[string]string, log *slog.Logger) ([]*rule, error) {
	specs, err := builtin()
	if err != nil {
		return nil, err
	}
	all := map[string]*rule{}
	for _, sp := range specs {
		if all[sp.ID], err = compileRule(sp); err != nil {
			return nil, err
		}
	}
	for _, row := range own {
		r, err := compileRule(row.spec)
		if err != nil {
			log.Error("a detection rule cannot be used any more; change or delete it", "rule", row.spec.ID, "error", err)
			continue
		}
		r.custom = true
		all[r.ID] = r
	}
	out := make([]*rule, 0, len(all))
	for _, name := range sortedKeys(all) {
		r := all[name]
		if m := modes[name]; m != "" {
			r.mode = m
		}
		out = append(out, r)
	}
	return out, nil
}

func (s *Service) reload(ctx context.Context) error {
	own, err := readRules(ctx, s.db)
	if err != nil {
		return err
	}
	modes, err := readModes(ctx, s.db)
	if err != nil {
		return err
	}
	rules, err := assemble(own, modes, s.o.Logger)
	if err != nil {
		return err
	}
	active, err := readDetections(ctx, s.db, ` WHERE ended = 0 AND state = 'active'`)
	if err != nil {
		return err
	}
	lifted, err := readDetections(ctx, s.db, ` WHERE state = 'lifted' AND forgiven = 0 ORDER BY id LIMIT 500`)
	if err != nil {
		return err
	}
	s.rules.Store(&rules)
	s.postures.Store(newPostures(active))
	if next := stamp(rules, lifted); next != s.stamp {
		s.stamp = next
		s.changed.Store(true)
	}
	return nil
}

// stamp tells whether whoever evaluates has to read something anew.
func stamp(rules []*rule, lifted []Detection) string {
	h := sha256.New()
	for _, r := range rules {
		_ = json.MarshalWrite(h, r.Spec, json.Deterministic(true)) // texts: it cannot fail
		fmt.Fprintln(h, r.mode, r.custom)
	}
	for _, d := range lifted {
		fmt.Fprintln(h, d.ID)
	}
	return string(h.Sum(nil))
}

func (s *Service) rule(name string) (*rule, bool) {
	for _, r := range *s.rules.Load() {
		if r.ID == name {
			return r, true
		}
	}
	return nil, false
}

// change commits what fn does with its events and brings the views up to date.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	if err := s.log.Change(ctx, fn); err != nil {
		return err
	}
	if err := s.watch.Poll(ctx); err != nil {
		s.o.Logger.Warn("detection changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

// RuleInfo is a rule and how it is used.
type RuleInfo struct {
	Spec
	Mode    string `json:"mode" enum:"observe,enforce,off"`
	BuiltIn bool   `json:"built_in"`
}

// Rules lists the rules in use, by name.
func (s *Service) Rules() []RuleInfo {
	rules := *s.rules.Load()
	out := make([]RuleInfo, len(rules))
	for i, r := range rules {
		out[i] = RuleInfo{Spec: r.Spec, Mode: r.mode, BuiltIn: !r.custom}
	}
	return out
}

// Own lists the rules that people wrote, by name.
func (s *Service) Own() []Spec {
	var out []Spec
	for _, r := range *s.rules.Load() {
		if r.custom {
			out = append(out, r.Spec.Plain())
		}
	}
	return out
}

// PutTx sets a rule inside a change, in place of a built-in one of its name, and
// reports whether anything changed. It is checked, and its test cases are run; it
// observes until a person says otherwise. Whoever commits polls the watcher.
func (s *Service) PutTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, sp Spec) (bool, error) {
	if err := Check(sp); err != nil {
		return false, err
	}
	sp = sp.Plain()
	for _, old := range s.Own() {
		if old.ID == sp.ID && same(old, sp) {
			return false, nil
		}
	}
	if err := putRule(ctx, tx.Tx, sp, reason, by.Name, s.o.Now()); err != nil {
		return false, err
	}
	if err := putMode(ctx, tx.Tx, sp.ID, Observe, reason, by.Name, s.o.Now()); err != nil {
		return false, err
	}
	tx.Record(event("detection.rule_changed", by, "detection-rule/"+sp.ID, reason, map[string]any{"mode": Observe, "version": sp.Version}))
	return true, storage.Bump(ctx, tx.Tx, version)
}

func same(a, b Spec) bool {
	x, errX := json.Marshal(a, json.Deterministic(true))
	y, errY := json.Marshal(b, json.Deterministic(true))
	return errX == nil && errY == nil && string(x) == string(y)
}

// DeleteTx deletes a rule that people wrote; a built-in one of its name is in use
// again, observing.
func (s *Service) DeleteTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) error {
	res, err := tx.Exec(ctx, `DELETE FROM detection_rules WHERE name = $1`, name)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		if _, ok := s.rule(name); ok {
			return errors.Join(err, ErrBuiltin)
		}
		return errors.Join(err, ErrNoRule)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM detection_modes WHERE rule = $1`, name); err != nil {
		return err
	}
	tx.Record(event("detection.rule_deleted", by, "detection-rule/"+name, reason, nil))
	return storage.Bump(ctx, tx.Tx, version)
}

// SetMode lets a rule act, or only observe, or be off. An empty name means every
// rule. Needs a reason. What rules did before stays until it is lifted.
func (s *Service) SetMode(ctx context.Context, by audit.Actor, reason, name, mode string) ([]RuleInfo, error) {
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	if mode != Observe && mode != Enforce && mode != Off {
		return nil, ErrMode
	}
	var names []string
	for _, r := range *s.rules.Load() {
		if name == "" || r.ID == name {
			names = append(names, r.ID)
		}
	}
	if len(names) == 0 {
		return nil, ErrNoRule
	}
	err := s.change(ctx, func(tx *audit.Tx) error {
		for _, n := range names {
			if err := putMode(ctx, tx.Tx, n, mode, reason, by.Name, s.o.Now()); err != nil {
				return err
			}
			tx.Record(event("detection.mode_set", by, "detection-rule/"+n, reason, map[string]any{"mode": mode}))
		}
		return storage.Bump(ctx, tx.Tx, version)
	})
	if err != nil {
		return nil, err
	}
	var out []RuleInfo
	for _, r := range s.Rules() {
		if name == "" || r.ID == name {
			out = append(out, r)
		}
	}
	return out, nil
}

// event returns an event about detection.
func event(t audit.Type, by audit.Actor, object, reason string, v map[string]any) audit.Event {
	ev := audit.Event{Type: t, Actor: by, Object: object, Reason: reason}
	if v != nil {
		b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			b = nil // cannot be: plain values
		}
		ev.Detail = b
	}
	return ev
}
