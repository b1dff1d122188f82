package approvals

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/inert"
	"github.com/countersign/countersign/internal/storage"
)

// Notice is what one person has to see about a request: it stays in their inbox
// until they have.
type Notice struct {
	ID       string
	Person   string // identifier
	Kind     What
	Approval string
	By       string // name of who caused it
	Said     string // their words, redacted
	Created  time.Time
	Seen     time.Time // zero: not yet
}

// What says what happened to a request that somebody is told of.
type What string

// What people are told. The first three are for one person, the others for
// whoever listens to a channel.
const (
	Asked      What = "asked"      // to the agent's owner: somebody asks something
	Answered   What = "answered"   // to who asked: the owner said something
	Overridden What = "overridden" // to everyone passed over and to the owner: the glass was broken
	Requested  What = "requested"  // a call is held
	Escalated  What = "escalated"  // the next tier may decide too
	Settled    What = "settled"    // decided, expired, void, withdrawn
)

// Whats lists them.
var Whats = []What{Requested, Escalated, Settled, Overridden, Asked, Answered}

const noticeID id.Kind = "ntc"

// News is something that people are to be told, wherever they are.
type News struct {
	What    What
	Request Request
	By      string   // name of who did it; empty: nobody in person
	Said    string   // their words, redacted
	People  []Person // whom it is for; empty: who may decide
}

// inform puts a notice into the inbox of each person and has the channels tell
// them. Nobody is told what they did themselves.
func (s *Service) inform(ctx context.Context, tx *audit.Tx, r *Request, what What, by Person, said string, people ...Person) error {
	now := s.o.Now().UTC().Truncate(time.Microsecond)
	told := map[string]bool{by.ID: true}
	news := News{What: what, Request: *r, By: by.Name, Said: said}
	for _, p := range people {
		if told[p.ID] {
			continue
		}
		told[p.ID] = true
		news.People = append(news.People, p)
		_, err := tx.Exec(ctx, `INSERT INTO approval_notices (id, person, kind, approval, made_by, said, created, seen) VALUES ($1, $2, $3, $4, $5, $6, $7, 0)`,
			id.At(noticeID, now), p.ID, string(what), r.ID, by.Name, said, storage.Micros(now))
		if err != nil {
			return err
		}
	}
	if len(news.People) == 0 || s.o.Tell == nil {
		return nil
	}
	return s.o.Tell(ctx, tx, news)
}

// owner returns the active owner of a request's agent, if there is one.
func (s *Service) owner(r *Request) []Person {
	a, ok := s.identity.Agent(r.Binding.Agent)
	u, known := s.identity.User(a.Owner)
	if !ok || !known || u.Disabled {
		return nil
	}
	return []Person{{u.ID, u.Name}}
}

// askers returns who asked the owner something, if by is the owner.
func (s *Service) askers(ctx context.Context, r *Request, by Person) ([]Person, error) {
	if o := s.owner(r); len(o) == 0 || o[0].ID != by.ID {
		return nil, nil
	}
	recs, err := s.log.List(ctx, audit.Query{Call: r.Call, Types: []audit.Type{"approval.asked"}, Limit: 200})
	if err != nil {
		return nil, err
	}
	var out []Person
	for _, rec := range recs {
		if rec.Event.Object == "approval/"+r.ID {
			out = append(out, Person{rec.Event.Actor.ID, rec.Event.Actor.Name})
		}
	}
	return out, nil
}

// Notices returns what is in a person's inbox, the newest first; with all also
// what they have seen.
func (s *Service) Notices(ctx context.Context, person string, all bool) ([]Notice, error) {
	rows, err := s.db.Query(ctx, `SELECT id, person, kind, approval, made_by, said, created, seen FROM approval_notices
		WHERE person = $1 AND ($2 OR seen = 0) ORDER BY id DESC LIMIT 500`, person, all)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	out := []Notice{}
	for rows.Next() {
		var n Notice
		var created, seen int64
		if err := rows.Scan(&n.ID, &n.Person, &n.Kind, &n.Approval, &n.By, &n.Said, &created, &seen); err != nil {
			return nil, unavailable(err)
		}
		n.Created, n.Seen = storage.Time(created), storage.Time(seen)
		out = append(out, n)
	}
	return out, unavailable(rows.Err())
}

// See records that a person has seen a notice of theirs.
func (s *Service) See(ctx context.Context, by Person, notice string) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		var approval, kind string
		err := tx.QueryRow(ctx, `UPDATE approval_notices SET seen = $1 WHERE id = $2 AND person = $3 AND seen = 0 RETURNING approval, kind`,
			storage.Micros(s.o.Now()), notice, by.ID).Scan(&approval, &kind)
		if storage.NoRows(err) {
			return ErrNoNotice
		}
		if err != nil {
			return err
		}
		tx.Record(audit.Event{Type: "approval.notice_viewed", Actor: audit.Person(by.ID, by.Name), Object: "approval/" + approval,
			Detail: marshal(map[string]string{"notice": notice, "kind": kind})})
		return nil
	})
}

// Line says in one line what happened.
func (n Notice) Line() string {
	by, said := inert.Text(n.By), inert.Text(n.Said)
	switch n.Kind {
	case Asked:
		return by + " asks you about " + n.Approval + ": " + said
	case Answered:
		return by + " answers about " + n.Approval + ": " + said
	}
	return by + " broke the glass for " + n.Approval + " (" + said + ")"
}

func names(people []Person) []string {
	out := make([]string, len(people))
	for i, p := range people {
		out[i] = p.Name
	}
	return out
}

// told are the events of a request that channels hear of.
var told = map[audit.Type]What{
	"approval.requested": Requested, "approval.escalated": Escalated, "approval.granted": Settled, "approval.denied": Settled,
	"approval.expired": Settled, "approval.voided": Settled, "approval.withdrawn": Settled,
}

// tell has the channels tell what a change recorded about a request, as part of
// that change: what happened is told, and what is told has happened.
func (s *Service) tell(ctx context.Context, tx *audit.Tx, request string) error {
	if s.o.Tell == nil {
		return nil
	}
	for _, ev := range tx.Recorded() {
		what, known := told[ev.Type]
		if !known {
			continue
		}
		r, err := get(ctx, tx, request)
		if err != nil {
			return err
		}
		news := News{What: what, Request: r, Said: ev.Reason}
		if ev.Actor.Kind == audit.KindUser {
			news.By = ev.Actor.Name
		}
		if err := s.o.Tell(ctx, tx, news); err != nil {
			return err
		}
	}
	return nil
}
