package reviews

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// changes are the events after which somebody is asked something.
var changes = []audit.Type{"agent.owner_changed", "grant.changed", "tool.effect_set", "finding.opened"}

const (
	settleFor   = 5 * time.Second // events are read in the order of their identifiers, not before they can have come
	questionDue = 14 * day
)

// asks is a question that follows from a change, and which grants it is about.
type asks struct {
	text  string
	about func(x *Subject) bool
}

// lookAtChanges asks small questions about what has changed since the last look.
func (s *Service) lookAtChanges(ctx context.Context) error {
	after, found, err := s.cursor(ctx)
	if err != nil {
		return err
	}
	now := s.now()
	if !found { // what was before there were questions is for campaigns
		return s.read(ctx, "", now)
	}
	q := audit.Query{Types: changes, Until: now.Add(-settleFor), After: after.event, Oldest: true, Limit: 100}
	if after.event == "" {
		q.Since = after.at
	}
	recs, err := s.o.Log.List(ctx, q)
	if err != nil || len(recs) == 0 {
		return err
	}
	for _, r := range recs {
		if err := s.question(ctx, r.Event); err != nil {
			return err
		}
	}
	return s.read(ctx, recs[len(recs)-1].Event.ID, now)
}

type place struct {
	event string
	at    time.Time
}

func (s *Service) cursor(ctx context.Context) (p place, found bool, err error) {
	var at int64
	err = s.o.DB.QueryRow(ctx, `SELECT event, at FROM review_cursor WHERE id = 1`).Scan(&p.event, &at)
	if storage.NoRows(err) {
		return p, false, nil
	}
	p.at = storage.Time(at)
	return p, err == nil, err
}

// read remembers how far the log was read; a question that was asked twice has the
// same name, and is one.
func (s *Service) read(ctx context.Context, event string, at time.Time) error {
	return s.o.DB.Tx(ctx, func(tx *storage.Tx) error {
		var id int64 // like other positions it is no change that needs an event
		return tx.QueryRow(ctx, `INSERT INTO review_cursor (id, event, at) VALUES (1, $1, $2) ON CONFLICT (id) DO UPDATE SET event = excluded.event, at = excluded.at RETURNING id`, event, storage.Micros(at)).Scan(&id)
	})
}

// question asks what follows from a change, unless it is asked about already.
func (s *Service) question(ctx context.Context, ev audit.Event) error {
	what, err := s.follows(ctx, ev)
	if err != nil || what.about == nil {
		return err
	}
	all, err := s.grants(ctx)
	if err == nil {
		err = s.used(ctx, all)
	}
	if err != nil {
		return err
	}
	var about []Subject
	for _, x := range all {
		if !what.about(&x) {
			continue
		}
		open, err := readItems(ctx, s.o.DB, ` WHERE object_id = $1 AND decision = ''`, x.ID)
		if err != nil {
			return err
		}
		if len(open) == 0 {
			s.flag(&x, Scope{UnusedFor: usualUnused.String()}, kept{})
			about = append(about, x)
		}
	}
	if len(about) == 0 || len(about) > mostItems {
		return nil
	}
	_, suffix, _ := strings.Cut(ev.ID, "_")
	now := s.now()
	r := Review{Name: "question-" + suffix, Due: now.Add(questionDue), Scope: Scope{Kinds: []string{Grant}, All: true}}
	if err := r.normalize(now); err != nil {
		return err
	}
	r.ID, r.Event, r.State, r.Created, r.By = id.At(reviewID, now), id.At(id.Event, now), Open, now, Person{Name: audit.System.Name}
	r.Question, r.Reason = what.text, "something changed: "+ev.ID
	_, err = s.launch(ctx, audit.System, r, about)
	if errors.Is(err, ErrExists) {
		return nil
	}
	return err
}

// follows says what is to be asked after an event; nothing if about is nil.
func (s *Service) follows(ctx context.Context, ev audit.Event) (asks, error) {
	switch ev.Type {
	case "agent.owner_changed":
		var d struct {
			Owner [2]string `json:"owner"`
		}
		if json.Unmarshal(ev.Detail, &d) != nil {
			return asks{}, nil
		}
		return asks{fmt.Sprintf("%s answers for %s now, no more %s: is what it may do still needed?", d.Owner[1], ev.Agent, d.Owner[0]), func(x *Subject) bool { return x.Agent == ev.Agent }}, nil
	case "tool.effect_set":
		return asks{fmt.Sprintf("the effect of %s/%s changed: should these agents still use it?", ev.Connection, ev.Tool), func(x *Subject) bool {
			return x.Connection == ev.Connection && (slices.Contains(x.Tools, ev.Tool) || slices.Contains(x.Tools, "*"))
		}}, nil
	case "finding.opened":
		var d struct {
			Rule   string `json:"rule"`
			Object string `json:"object"`
		}
		if json.Unmarshal(ev.Detail, &d) != nil || d.Rule != "agent.idle" {
			return asks{}, nil
		}
		agent := strings.TrimPrefix(d.Object, "agent/")
		return asks{agent + " is idle: does it still need what it may do?", func(x *Subject) bool { return x.Agent == agent }}, nil
	}
	return s.widened(ctx, ev)
}

// given is what the event of a grant says of it.
type given struct {
	Grant   string    `json:"grant"`
	Tools   []string  `json:"tools"`
	When    string    `json:"when"`
	Expires time.Time `json:"expires"`
}

// widened asks about a grant that gives more than it did before.
func (s *Service) widened(ctx context.Context, ev audit.Event) (asks, error) {
	var now given
	if json.Unmarshal(ev.Detail, &now) != nil {
		return asks{}, nil
	}
	recs, err := s.o.Log.List(ctx, audit.Query{Agent: ev.Agent, Types: []audit.Type{"grant.given", "grant.changed"}, After: ev.ID, Limit: 1000})
	if err != nil {
		return asks{}, err
	}
	for _, r := range recs {
		var was given
		if r.Event.Object != ev.Object || json.Unmarshal(r.Event.Detail, &was) != nil || was.Grant != now.Grant {
			continue
		}
		if !now.wider(was) {
			return asks{}, nil
		}
		break
	}
	name := strings.TrimPrefix(ev.Object, "grant/")
	return asks{fmt.Sprintf("%s made the grant %s wider: is that needed?", ev.Actor.Name, name), func(x *Subject) bool { return x.ID == now.Grant }}, nil
}

// wider reports whether a grant may give more than it did: another condition counts,
// because which of two is narrower cannot be told.
func (g given) wider(was given) bool {
	more := func(t string) bool { return !slices.Contains(was.Tools, t) && !slices.Contains(was.Tools, "*") }
	later := !was.Expires.IsZero() && (g.Expires.IsZero() || g.Expires.After(was.Expires))
	return slices.ContainsFunc(g.Tools, more) || was.When != "" && g.When != was.When || later
}
