package approvals

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// Of reports whether r holds a call of this agent for these people: nobody
// else learns anything of it by its id.
func (r *Request) Of(agent string, chain []audit.Actor) bool {
	return agent != "" && r.Binding.AgentID == agent && slices.Equal(r.Binding.Chain, chain)
}

// Until is how long there is something to learn about the request by its id.
func (r *Request) Until() time.Time {
	_, execute := clocks(r.Needs)
	return r.DecideBy.Add(execute).Add(keepResult)
}

// Changed is when the request changed last.
func (r *Request) Changed() time.Time {
	if r.updated.IsZero() {
		return r.Created
	}
	return r.updated
}

// Collect returns the answer to an executed call, nil if it is not kept, for
// whoever asks by the request's id. An identical call is a new request from
// then on: the agent knows how this one ended. The answer stays for who asks by
// the id again, as long as it is kept.
func (s *Service) Collect(ctx context.Context, id string) (*Kept, error) {
	for range decideAttempts {
		r, err := s.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		if r.State != Executed {
			return nil, ErrSettled.Say("the call was not made")
		}
		if r.open {
			if err := s.collected(ctx, &r); errors.Is(err, ErrRaced) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		sealed, err := blob(ctx, s.db, "kept", id)
		if err != nil || len(sealed) == 0 || !s.o.Now().Before(r.Settled.Add(keepResult)) {
			return nil, err
		}
		kept := &Kept{}
		return kept, s.unseal(id, "kept", sealed, kept)
	}
	return nil, ErrRaced
}

// collected closes a request to identical calls and keeps its answer.
func (s *Service) collected(ctx context.Context, r *Request) error {
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		err := tx.ExecOne(ctx, `UPDATE approvals SET open = $1, due = $2, revision = revision + 1 WHERE id = $3 AND revision = $4`,
			false, storage.Micros(r.Settled.Add(keepResult)), r.ID, r.revision)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrRaced
		}
		return err
	})
}

// self reports whether the person who sits at the agent's client may decide
// about its call: the agent acts for nobody in particular, so that is its
// owner, and the policies do not want other eyes than theirs.
func (s *Service) self(r *Request, now time.Time) bool {
	if r.State != Pending || len(r.Excluded) > 0 {
		return false
	}
	a, ok := s.identity.Agent(r.Binding.Agent)
	if !ok {
		return false
	}
	u, ok := s.identity.User(a.Owner)
	if !ok || u.Disabled {
		return false
	}
	_, err := s.entitled(r, Person{ID: u.ID, Name: u.Name}, now.Sub(r.Created), nil)
	return err == nil
}
