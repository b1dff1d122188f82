package channels

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// Watched is the name under which changes of this room are announced.
const Watched = "channels"

const (
	channelID  id.Kind = "chn"
	deliveryID id.Kind = "dlv"
)

// Options of a Service. All but Now, Logger and the times are required.
type Options struct {
	DB        *storage.DB
	Log       *audit.Log
	Watch     *storage.Watcher
	Identity  *identity.Service
	Secrets   *secrets.Service
	Findings  *findings.Service
	Approvals *approvals.Service
	// Link returns where a person reads about a request, signed in.
	Link     func(approval string) string
	Redactor audit.Redactor
	Now      func() time.Time
	Logger   *slog.Logger
	// Attempts is after how many a message is dead; 0 means 8.
	Attempts int
	// Backoff is the pause after so many attempts; nil: 2 s, doubling, an hour at most.
	Backoff func(attempts int) time.Duration
}

// Service is the room's verbs. It is safe for concurrent use.
type Service struct {
	Options
	current atomic.Pointer[[]Channel]
	lease   *job.Lease

	mu      sync.Mutex
	busy    map[string]bool // channels that a goroutine of this process delivers to
	signing map[string]kept

	cleaned time.Time // by Look alone

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// New returns a Service and registers its view with the watcher.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Log == nil || o.Watch == nil || o.Identity == nil || o.Secrets == nil || o.Findings == nil || o.Approvals == nil || o.Link == nil || o.Redactor == nil {
		return nil, errors.New("channels: every room is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Attempts == 0 {
		o.Attempts = 8
	}
	if o.Backoff == nil {
		o.Backoff = func(n int) time.Duration { return min(2*time.Second<<min(n, 20), time.Hour) }
	}
	s := &Service{Options: o, lease: job.NewLease(o.DB, "channels/deliver", leaseFor), busy: map[string]bool{}, signing: map[string]kept{}}
	s.current.Store(&[]Channel{})
	o.Watch.On(Watched, s.reload)
	o.Watch.On(secrets.Watched, func(context.Context) error { s.forgetSigning(); return nil })
	return s, nil
}

func (s *Service) reload(ctx context.Context) error {
	all, err := channelRows(ctx, s.DB, "")
	if err == nil {
		s.current.Store(&all)
	}
	return err
}

// Channels returns all channels, by name, from memory.
func (s *Service) Channels() []Channel { return slices.Clone(*s.current.Load()) }

// Channel returns a channel by name, from memory.
func (s *Service) Channel(name string) (Channel, bool) {
	return s.find(func(c Channel) bool { return c.Name == name })
}

func (s *Service) find(is func(Channel) bool) (Channel, bool) {
	all := *s.current.Load()
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], true
	}
	return Channel{}, false
}

func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	if err := s.Log.Change(ctx, fn); err != nil {
		return err
	}
	if err := s.Watch.Poll(ctx); err != nil {
		s.Logger.Warn("channels changed, but the view could not be reloaded", "error", err)
	}
	return nil
}

// Put registers or changes a channel; it reports whether anything changed.
func (s *Service) Put(ctx context.Context, by audit.Actor, reason string, c Channel) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.PutTx(ctx, tx, by, reason, c)
		return err
	})
	return changed && err == nil, err
}

// PutTx is Put inside a change. The caller polls the watcher after its commit.
func (s *Service) PutTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, c Channel) (bool, error) {
	c, err := c.Normalize()
	if err != nil {
		return false, err
	}
	if string(s.Redactor.Redact([]byte(c.URL))) != c.URL {
		return false, bad("url: looks like it holds a credential; a notice's URL is its secret")
	}
	if err := checkReason(reason, false); err != nil {
		return false, err
	}
	old, err := channelRows(ctx, tx, `WHERE name = $1`, c.Name)
	if err != nil {
		return false, err
	}
	now := s.Now()
	t := audit.Type("channel.updated")
	c.ID, c.Created, c.Updated = id.At(channelID, now), now, now
	switch {
	case len(old) == 0:
		t = "channel.created"
	case old[0].same(c):
		return false, nil
	default:
		c.ID, c.Created = old[0].ID, old[0].Created
	}
	if err := putChannel(ctx, tx, c); err != nil {
		if storage.Referenced(err) {
			return false, ErrOwner.Say("owner: there is no user %.63s; create it first", c.Owner)
		}
		return false, err
	}
	tx.Record(event(t, by, reason, c, c.Spec))
	return true, storage.Bump(ctx, tx.Tx, Watched)
}

// Delete removes a channel, what it had still to tell, and the accounts that
// were linked to it. Needs a reason.
func (s *Service) Delete(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error {
		found, err := s.DeleteTx(ctx, tx, by, reason, name)
		if err == nil && !found {
			return ErrNotFound
		}
		return err
	})
}

// DeleteTx is Delete inside a change; it reports whether there was anything to
// delete.
func (s *Service) DeleteTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) (bool, error) {
	old, err := channelRows(ctx, tx, `WHERE name = $1`, name)
	if err != nil || len(old) == 0 {
		return false, err
	}
	if err := checkReason(reason, true); err != nil {
		return false, err
	}
	// Whoever took the name next would get its secrets.
	if err := s.Secrets.KeepConnections(ctx, tx, by, reason, "connection/"+Connection(name)); err != nil {
		return false, err
	}
	if err := tx.ExecOne(ctx, `DELETE FROM channels WHERE id = $1`, old[0].ID); err != nil {
		return false, err
	}
	tx.Record(event("channel.deleted", by, reason, old[0], nil))
	return true, storage.Bump(ctx, tx.Tx, Watched)
}

// KeepOwners refuses to delete a user who owns channels; server registers it
// with identity's OnDelete.
func (s *Service) KeepOwners(ctx context.Context, tx *audit.Tx, _ audit.Actor, _, object string) error {
	all, err := channelRows(ctx, tx, "")
	if err != nil {
		return err
	}
	for _, c := range all {
		if object == "user/"+c.Owner {
			return identity.ErrInUse.Say("user %q owns the channel %s; give it another owner first", c.Owner, c.Name)
		}
	}
	return nil
}

func event(t audit.Type, by audit.Actor, reason string, c Channel, detail any) audit.Event {
	ev := audit.Event{Type: t, Actor: by, Reason: reason, Object: "channel/" + c.Name, Owner: c.Owner}
	if detail != nil {
		ev.Detail = jsontext.Value(text(detail))
	}
	return ev
}

// Tell stores what the channels have to tell, as part of the change that it is
// about. It is approvals' Options.Tell.
func (s *Service) Tell(ctx context.Context, tx *audit.Tx, n approvals.News) error {
	now := s.Now()
	for _, c := range *s.current.Load() {
		if !c.wants(n) {
			continue
		}
		told := news{By: n.By, Said: n.Said}
		for _, p := range n.People {
			told.Names = append(told.Names, p.Name)
		}
		if c.People {
			if told.To = s.addresses(n); len(told.To) == 0 {
				continue // nobody who has an address
			}
		}
		// A channel that was deleted a moment ago is told nothing.
		var there int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM channels WHERE id = $1`, c.ID).Scan(&there); err != nil {
			return unavailable(err)
		}
		if there == 0 {
			continue
		}
		d := delivery{ID: id.At(deliveryID, now), Channel: c.ID, Approval: n.Request.ID, What: string(n.What), News: told, Created: now}
		if err := putDelivery(ctx, tx.Exec, d); err != nil {
			return err
		}
	}
	return nil
}

// Say stores a line that people are to read, as part of the change that it is
// about. Channels that are for some news or some groups only tell it if one of the
// people is in such a group; those that write to people write to these.
func (s *Service) Say(ctx context.Context, tx *audit.Tx, line string, people []string) error {
	now := s.Now()
	for _, c := range *s.current.Load() {
		told := news{Said: line, Names: people}
		if c.People {
			if told.To = s.mail(people); len(told.To) == 0 {
				continue
			}
		} else if len(c.What) > 0 || len(c.Groups) > 0 && !slices.ContainsFunc(c.Groups, func(name string) bool {
			g, _ := s.Identity.Group(name)
			return slices.ContainsFunc(people, g.Has)
		}) {
			continue
		}
		var there int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM channels WHERE id = $1`, c.ID).Scan(&there); err != nil {
			return unavailable(err)
		}
		if there == 0 { // deleted a moment ago
			continue
		}
		if err := putDelivery(ctx, tx.Exec, delivery{ID: id.At(deliveryID, now), Channel: c.ID, What: whatSaid, News: told, Created: now}); err != nil {
			return err
		}
	}
	return nil
}

// addresses returns the e-mail addresses of those whom news is for: by name, or
// who may decide.
func (s *Service) addresses(n approvals.News) []string {
	var people []string
	for _, p := range n.People {
		people = append(people, p.Name)
	}
	if len(people) == 0 && (n.What == approvals.Requested || n.What == approvals.Escalated) {
		for _, name := range groupsOf(n.Request) {
			g, _ := s.Identity.Group(name)
			people = append(people, g.Members...)
		}
	}
	return s.mail(people)
}

// mail returns the e-mail addresses of active people.
func (s *Service) mail(people []string) []string {
	var out []string
	for _, name := range people {
		if u, ok := s.Identity.User(name); ok && !u.Disabled && u.Email != "" && !slices.Contains(out, u.Email) {
			out = append(out, u.Email)
		}
	}
	return out
}
