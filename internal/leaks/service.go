package leaks

import (
	"context"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/storage"
)

// Errors of this package.
var (
	ErrInvalid  = fault.New(fault.Invalid, "invalid_report", "a report holds 1 to 1000 values of at most 64 KiB each")
	ErrLimited  = fault.New(fault.Limited, "reports_limited", "too many values were reported; wait a minute")
	ErrNotFound = fault.New(fault.NotFound, "not_found", "there is no such canary")
	ErrTaken    = fault.New(fault.Conflict, "taken", "there is a canary of that name already")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrSigned   = fault.New(fault.Denied, "signature_refused", "the signature of this report cannot be verified")
	ErrOff      = fault.New(fault.NotFound, "not_configured", "reports of this kind are not taken: set leaks.github_keys")
)

// Options of a Service.
type Options struct {
	DB       *storage.DB
	Log      *audit.Log
	Watch    *storage.Watcher
	Identity *identity.Service
	Locks    *locks.Service
	Findings *findings.Service
	Digests  *Digests // of upstream secrets
	// Key signs the digests of canaries; the same on every replica.
	Key []byte
	// RevokeAccess ends an access token and what was exchanged for it, inside a
	// change. Required.
	RevokeAccess func(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, l identity.Leaked) error
	// Rotate replaces an upstream's secret now. It returns ErrByHand if that
	// secret cannot be rotated by us. Nil rotates none.
	Rotate func(ctx context.Context, by audit.Actor, reason, secret string) error
	// Owner says who answers for an upstream's secret. Nil: nobody.
	Owner func(secret string) string
	// GitHubKeys is where GitHub publishes the keys that it signs alerts with;
	// empty takes no alerts.
	GitHubKeys string
	Logger     *slog.Logger
}

// ErrByHand says that a secret has no rotator: a person must replace it.
var ErrByHand = errors.New("leaks: the secret must be rotated by hand")

// Service takes reports and keeps canaries.
type Service struct {
	o      Options
	view   atomic.Pointer[map[digest]Canary]
	limits sync.Map // caller -> *rate.Limiter
	keys   githubKeys
	trips  chan trip
	told   map[string]time.Time // canary and address -> last told; of the goroutine
	cancel context.CancelFunc
	done   chan struct{}
}

// New returns a stopped Service.
func New(o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o, trips: make(chan trip, 256), told: map[string]time.Time{}}
	s.view.Store(&map[digest]Canary{})
	o.Watch.On(watched, s.reload)
	return s
}

// Item is one place where something was found.
type Item struct {
	Value string // a credential, or text that holds some; never stored
	Where string // file and line, or URL
}

// Match is a credential that was recognised, and what was done.
type Match struct {
	Kind   string `json:"kind" enum:"key,run,access,token,secret,canary"`
	Object string `json:"object" doc:"whose it is: agent/NAME, user/NAME, secret/NAME or canary/NAME"`
	ID     string `json:"id,omitempty" doc:"identifier of our credential"`
	Lock   string `json:"lock,omitempty" doc:"the lock that cuts what is in flight"`
	Done   string `json:"done" enum:"revoked,dead,rotated,by_hand,noted"`
}

// Limits of a report.
const (
	maxItems   = 1000
	maxValue   = 64 << 10
	valueBurst = 1000            // values that one caller may report at once
	valueEvery = time.Second / 5 // and then one in this time
	lockFor    = 24 * time.Hour  // the lock on a credential that is revoked as well
)

// Report compares what was found with everything that must not be found, and
// answers to each match. source says who found it: "gitleaks", "github", "person".
func (s *Service) Report(ctx context.Context, by audit.Actor, source string, items []Item) ([]Match, error) {
	if len(items) == 0 || len(items) > maxItems {
		return nil, ErrInvalid
	}
	for _, it := range items {
		if len(it.Value) > maxValue || it.Value == "" {
			return nil, ErrInvalid
		}
	}
	if !s.allow(by.Kind, by.Name, len(items)) {
		return nil, ErrLimited
	}
	var out []Match
	var failed error
	seen := map[string]bool{}
	for _, it := range items {
		for _, c := range candidates(it.Value) {
			found, err := s.answer(ctx, by, source, it.Where, c, seen)
			out, failed = append(out, found...), errors.Join(failed, err)
		}
	}
	return out, failed
}

func (s *Service) allow(kind audit.ActorKind, name string, n int) bool {
	l, _ := s.limits.LoadOrStore(string(kind)+"/"+name, rate.NewLimiter(rate.Every(valueEvery), valueBurst))
	return l.(*rate.Limiter).AllowN(time.Now(), n)
}

// answer does what a single candidate asks for, once per thing.
func (s *Service) answer(ctx context.Context, by audit.Actor, source, where, candidate string, seen map[string]bool) (out []Match, failed error) {
	once := func(key string) bool {
		if seen[key] {
			return false
		}
		seen[key] = true
		return true
	}
	if c, ok := s.canary(candidate); ok {
		if once("canary/" + c.Name) {
			out = append(out, Match{Kind: "canary", Object: "canary/" + c.Name, ID: c.ID, Done: "noted"})
			failed = s.o.Log.Change(ctx, func(tx *audit.Tx) error {
				tx.Record(reported(by, source, where, "canary/"+c.Name, "", "canary"))
				return nil
			})
		}
		return out, failed
	}
	l, ours, err := s.o.Identity.Recognise(ctx, candidate)
	if err != nil {
		return nil, err
	}
	if ours {
		if !once("credential/" + l.ID) {
			return nil, nil
		}
		m, err := s.revoke(ctx, by, source, where, l)
		return []Match{m}, err
	}
	for _, name := range s.o.Digests.of(candidate) {
		if once("secret/" + name) {
			m, err := s.rotate(ctx, by, source, where, name)
			out, failed = append(out, m), errors.Join(failed, err)
		}
	}
	return out, failed
}

// revoke ends a credential of ours: revoked, and locked unless revoking alone
// cuts its calls, in one change with its finding.
func (s *Service) revoke(ctx context.Context, by audit.Actor, source, where string, l identity.Leaked) (Match, error) {
	object := "user/" + l.User
	if l.Agent != "" {
		object = "agent/" + l.Agent
	}
	m := Match{Kind: l.Kind, Object: object, ID: l.ID, Done: "revoked"}
	if l.Dead {
		m.Done = "dead"
	}
	reason := "leaked: reported by " + clip(source, 60)
	err := s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		m.Lock = ""
		tx.Record(reported(by, source, where, object, l.ID, l.Kind))
		if !l.Dead {
			end := s.o.Identity.RevokeLeakedTx
			if l.Kind == identity.KindAccess {
				end = s.o.RevokeAccess
			}
			if err := end(ctx, tx, by, reason, l); err != nil {
				return err
			}
		}
		if !l.Dead && l.Agent != "" && l.Kind != identity.KindAccess {
			lock, err := s.o.Locks.AddTx(ctx, tx, by, locks.Lock{Kind: locks.Credential, Name: l.ID, Reason: reason}, lockFor)
			if err != nil {
				return err
			}
			m.Lock = lock.ID
		}
		return s.o.Findings.OpenTx(ctx, tx, leakFinding(m, l.User, where))
	})
	if err != nil {
		return m, err
	}
	if err := s.o.Watch.Poll(ctx); err != nil {
		s.o.Logger.Warn("a leaked credential was revoked, but the view could not be reloaded", "error", err)
	}
	return m, nil
}

// rotate replaces an upstream's secret if that can be done, and leaves a
// finding if it was not.
func (s *Service) rotate(ctx context.Context, by audit.Actor, source, where, name string) (Match, error) {
	m := Match{Kind: "secret", Object: "secret/" + name, Done: "rotated"}
	failed := ErrByHand
	if s.o.Rotate != nil {
		failed = s.o.Rotate(ctx, by, "leaked: reported by "+clip(source, 60), name)
	}
	if failed != nil {
		m.Done = "by_hand"
	}
	owner := ""
	if s.o.Owner != nil {
		owner = s.o.Owner(name)
	}
	err := s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(reported(by, source, where, m.Object, "", m.Kind))
		return s.o.Findings.OpenTx(ctx, tx, leakFinding(m, owner, where))
	})
	if failed != nil && !errors.Is(failed, ErrByHand) {
		s.o.Logger.Error("a leaked secret could not be rotated", "secret", name, "error", failed)
	}
	return m, err
}

// reported is the event of a report. It holds where, not what.
func reported(by audit.Actor, source, where, object, credential, kind string) audit.Event {
	b, err := json.Marshal(map[string]string{"source": clip(source, 60), "where": clip(where, 300), "kind": kind}, json.Deterministic(true))
	if err != nil {
		b = nil // cannot be: valid strings
	}
	ev := audit.Event{Type: "leak.reported", Actor: by, Object: object, Credential: credential, Detail: b}
	ev.Agent, _ = strings.CutPrefix(object, "agent/")
	if ev.Agent == object {
		ev.Agent = ""
	}
	return ev
}

func leakFinding(m Match, owner, where string) findings.Finding {
	what := map[string]string{"key": "a key", "run": "a run token", "access": "an access token", "token": "a user token", "secret": "the value"}[m.Kind]
	f := findings.Finding{Rule: "credential.leaked", Severity: findings.High, Object: m.Object, Title: what + " of " + m.Object + " was found in the open"}
	todo := map[string]string{
		"revoked": "It was revoked at once, and calls in flight were cut. Look for calls made with it (countersign log search credential:" + m.ID + "), and issue a new one.",
		"dead":    "It was dead already. Look whether it was used before (countersign log search credential:" + m.ID + ").",
		"rotated": "It was rotated at once. Look at the provider for uses that did not come from here.",
		"by_hand": "It still works at the provider: replace it there now, then countersign secret put. Look at the provider for uses that did not come from here.",
	}[m.Done]
	if m.Done == "by_hand" {
		f.Severity = findings.Critical
	}
	if owner == "" {
		owner = "nobody: give it an owner"
	}
	f.Detail = "Found at " + clip(where, 300) + ". " + todo + " Its owner is " + owner + "."
	return f
}

// clip bounds foreign text for events and findings.
func clip(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	for len(s) > most {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
