package leaks

import (
	"context"
	"encoding/json/v2"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
)

// watched is the name under which changes of canaries are announced.
const watched = "canaries"

const canaryID id.Kind = "cnr"

// Canary is a credential that nobody uses, without its value.
type Canary struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Kind     string    `json:"kind" enum:"key,token" doc:"what it looks like: an agent's key, or a user's token"`
	Where    string    `json:"where" doc:"where it was put"`
	By       string    `json:"by"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero" doc:"an incident"`
	Uses     int64     `json:"uses" doc:"that were told; repeated ones from one address are told once in ten seconds"`
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (s *Service) reload(ctx context.Context) error {
	rows, err := readCanaries(ctx, s.o.DB, "")
	if err != nil {
		return err
	}
	next := map[digest]Canary{}
	for _, r := range rows {
		next[r.digest] = r.Canary
	}
	s.view.Store(&next)
	return nil
}

// canary returns the canary with a value, in memory.
func (s *Service) canary(value string) (Canary, bool) {
	view := *s.view.Load()
	if len(view) == 0 || !Decoyed(value) {
		return Canary{}, false
	}
	c, ok := view[keyed(s.o.Key, []byte(value))]
	return c, ok
}

// The kinds of canaries: what they look like.
const (
	LikeKey   = "key"   // an agent's, for where programs keep theirs
	LikeToken = "token" // a user's, for where people keep theirs
)

var decoys = map[string]string{LikeKey: identity.KeyPrefix, LikeToken: identity.TokenPrefix}

// Decoyed reports whether value looks like what canaries look like.
func Decoyed(value string) bool {
	return strings.HasPrefix(value, identity.KeyPrefix) || strings.HasPrefix(value, identity.TokenPrefix)
}

// CreateCanary makes a canary of a kind (LikeKey if empty) and returns it with
// its value, which is shown once. where says where it will be put.
func (s *Service) CreateCanary(ctx context.Context, by audit.Actor, reason, name, kind, where string) (Canary, string, error) {
	if kind == "" {
		kind = LikeKey
	}
	if decoys[kind] == "" {
		return Canary{}, "", ErrInvalid.Say("a canary looks like a %s or a %s", LikeKey, LikeToken)
	}
	if !nameForm.MatchString(name) {
		return Canary{}, "", ErrInvalid.Say("a canary's name must be 1 to 63 of a-z, 0-9, '.', '_' and '-'")
	}
	if utf8.RuneCountInString(reason) > 1000 {
		return Canary{}, "", ErrReason
	}
	now := time.Now()
	value := identity.Decoy(decoys[kind])
	c := Canary{ID: id.At(canaryID, now), Name: name, Kind: kind, Where: clip(where, 300), By: by.Name, Created: now.UTC().Truncate(time.Microsecond)}
	err := s.change(ctx, func(tx *audit.Tx) error {
		if err := insertCanary(ctx, tx, c, keyed(s.o.Key, []byte(value))); err != nil {
			return err
		}
		tx.Record(canaryEvent("canary.created", by, reason, c, map[string]any{"kind": c.Kind, "where": c.Where}))
		return storage.Bump(ctx, tx.Tx, watched)
	})
	if storage.Duplicate(err) {
		return Canary{}, "", ErrTaken
	}
	return c, value, err
}

// DeleteCanary forgets a canary.
func (s *Service) DeleteCanary(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error {
		found, err := readCanaries(ctx, tx, name)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return ErrNotFound.Say("there is no canary %q", name)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM canaries WHERE name = $1`, name); err != nil {
			return err
		}
		tx.Record(canaryEvent("canary.deleted", by, reason, found[0].Canary, nil))
		return storage.Bump(ctx, tx.Tx, watched)
	})
}

// Canaries lists them by name.
func (s *Service) Canaries(ctx context.Context) ([]Canary, error) {
	rows, err := readCanaries(ctx, s.o.DB, "")
	out := make([]Canary, 0, len(rows))
	for _, r := range rows {
		out = append(out, r.Canary)
	}
	return out, err
}

func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	if err := s.o.Log.Change(ctx, fn); err != nil {
		return err
	}
	if err := s.o.Watch.Poll(ctx); err != nil {
		s.o.Logger.Warn("canaries changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

func canaryEvent(t audit.Type, by audit.Actor, reason string, c Canary, v map[string]any) audit.Event {
	ev := audit.Event{Type: t, Actor: by, Object: "canary/" + c.Name, Reason: reason, Credential: c.ID}
	if v != nil {
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			b = nil // cannot be: plain values
		}
		ev.Detail = b
	}
	return ev
}

// trip is one use of a canary.
type trip struct {
	canary               Canary
	remote, client, door string
	at                   time.Time
}

// Tripped looks whether a credential that was refused is a canary, in memory
// and without waiting; if so the incident is told in the background.
func (s *Service) Tripped(credential, remote, client, door string) {
	c, ok := s.canary(credential)
	if !ok {
		return
	}
	select {
	case s.trips <- trip{c, clip(remote, 100), clip(client, 200), clip(door, 200), time.Now()}:
	default: // a flood of what is being told already
	}
}

// tellAgain is how long the same address is quiet about the same canary.
const tellAgain = 10 * time.Second

// Start begins to tell incidents.
func (s *Service) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		for {
			select {
			case <-run.Done():
				return
			case t := <-s.trips:
				s.tell(run, t)
			}
		}
	}()
	return nil
}

// Stop tells what is queued and ends. It may be called without Start.
func (s *Service) Stop(ctx context.Context) error {
	if s.cancel == nil {
		return nil
	}
	s.cancel()
	<-s.done
	s.cancel = nil
	for {
		select {
		case t := <-s.trips:
			s.tell(ctx, t)
		default:
			return nil
		}
	}
}

func (s *Service) tell(ctx context.Context, t trip) {
	key := t.canary.ID + " " + t.remote
	if t.at.Sub(s.told[key]) < tellAgain {
		return
	}
	if len(s.told) > 10_000 { // addresses cost an attacker little
		clear(s.told)
	}
	s.told[key] = t.at
	err := s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE canaries SET last_used = $1, uses = uses + 1 WHERE id = $2`, storage.Micros(t.at), t.canary.ID)
		if err != nil {
			return err
		}
		ev := canaryEvent("canary.used", audit.Actor{Kind: audit.KindAgent}, "", t.canary, map[string]any{"door": t.door, "where": t.canary.Where})
		ev.Remote, ev.Client = t.remote, t.client
		tx.Record(ev)
		return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: "canary.used", Severity: findings.Critical, Object: "canary/" + t.canary.Name,
			Title: "the canary " + t.canary.Name + " was used from " + t.remote,
			Detail: "Nobody uses it, so whoever did has read what it was put into (" + t.canary.Where + "): take everything there for known to them. It was presented at " + t.door +
				" by " + t.client + ", and refused like any unknown credential. All uses: countersign log search object:canary/" + t.canary.Name})
	})
	if err != nil {
		delete(s.told, key)
		s.o.Logger.Error("the use of a canary could not be recorded", "canary", t.canary.Name, "remote", t.remote, "error", err)
	}
}
