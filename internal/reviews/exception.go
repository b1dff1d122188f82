package reviews

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

const exceptionID id.Kind = "gex"

// Errors of exceptions.
var (
	ErrException   = fault.New(fault.Invalid, "bad_exception", "an exception needs a grant, an active owner, a reason and an end within a year")
	ErrNoException = fault.New(fault.NotFound, "exception_not_found", "there is no such exception")
)

// Exception says that a grant may stand without an end of its own although it
// reaches, in production, what cannot be undone. It is for what the grant of its
// name gives, or less, and may be made before the grant is given.
type Exception struct {
	ID         string    `json:"id"`
	Grant      string    `json:"grant"`
	Agent      string    `json:"agent"`
	Connection string    `json:"connection"`
	Tools      []string  `json:"tools"`
	When       string    `json:"when,omitzero"`
	Owner      string    `json:"owner" doc:"who answers for it"`
	Reason     string    `json:"reason"`
	Until      time.Time `json:"until"`
	By         string    `json:"by"`
	Created    time.Time `json:"created"`
}

// Covers reports whether the exception is about what a grant gives.
func (e *Exception) Covers(g policy.Grant) bool {
	return e.Grant == g.Name && g.Within(policy.Grant{Agent: e.Agent, Connection: e.Connection, Tools: e.Tools, When: e.When})
}

// Except makes an exception, in the place of one before. What it is for is that of
// the grant, if the grant is there and the exception names no agent. Needs an
// owner, an end and a reason.
func (s *Service) Except(ctx context.Context, by audit.Actor, reason string, e Exception) (Exception, error) {
	if e.Agent == "" {
		g, err := s.o.Policy.Grant(ctx, e.Grant)
		if errors.Is(err, policy.ErrNoGrant) {
			return e, policy.ErrNoGrant.Say("there is no grant %q; an exception that is made before its grant names what the grant will give: agent, connection and tools", e.Grant)
		}
		if err != nil {
			return e, err
		}
		e.Agent, e.Connection, e.Tools, e.When = g.Agent, g.Connection, g.Tools, g.When
	}
	err := s.change(ctx, func(tx *audit.Tx) (err error) {
		e, err = s.ExceptTx(ctx, tx, by, reason, e)
		return err
	})
	if err == nil {
		err = s.lookAtStanding(ctx)
	}
	return e, err
}

// ExceptTx is Except inside a change, of an exception that says what it is for.
func (s *Service) ExceptTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, e Exception) (Exception, error) {
	if err := checkReason(reason, true); err != nil {
		return e, err
	}
	if err := s.o.Policy.CheckGrant(policy.Grant{Name: e.Grant, Agent: e.Agent, Connection: e.Connection, Tools: e.Tools, When: e.When}); err != nil {
		return e, err
	}
	now := s.now()
	u, err := s.o.Identity.UserTx(ctx, tx, e.Owner)
	switch {
	case err != nil && !errors.Is(err, identity.ErrNotFound):
		return e, err
	case err != nil || !u.May(rest.Own):
		return e, ErrException.Say("owner: %q is no active user who may own agents", e.Owner)
	case !e.Until.After(now) || e.Until.Sub(now) > longestDue:
		return e, ErrException.Say("until: must be in the future, at most a year away")
	}
	e.ID, e.Reason, e.Until, e.By, e.Created = id.At(exceptionID, now), reason, e.Until.UTC().Truncate(time.Microsecond), by.Name, now
	tx.Record(audit.Event{Type: "grant.exception_made", Actor: by, Reason: reason, Object: "grant/" + e.Grant, Agent: e.Agent, Connection: e.Connection,
		Detail: marshal(map[string]any{"exception": e.ID, "tools": e.Tools, "when": e.When, "owner": e.Owner, "until": e.Until})})
	_, err = tx.Exec(ctx, `INSERT INTO grant_exceptions (id, grant_name, until, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (grant_name) DO UPDATE SET id = excluded.id, until = excluded.until, body = excluded.body`, e.ID, e.Grant, storage.Micros(e.Until), string(marshal(e)))
	return e, err
}

// EndException ends one before its time.
func (s *Service) EndException(ctx context.Context, by audit.Actor, reason, exception string) error {
	if err := checkReason(reason, true); err != nil {
		return err
	}
	if err := s.change(ctx, func(tx *audit.Tx) error { return s.EndExceptionTx(ctx, tx, by, reason, exception) }); err != nil {
		return err
	}
	return s.lookAtStanding(ctx)
}

// EndExceptionTx is EndException inside a change.
func (s *Service) EndExceptionTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, exception string) error {
	found, err := readExceptions(ctx, tx, ` WHERE id = $1`, exception)
	if err != nil || len(found) == 0 {
		return errors.Join(err, ErrNoException)
	}
	tx.Record(audit.Event{Type: "grant.exception_ended", Actor: by, Reason: reason, Object: "grant/" + found[0].Grant, Agent: found[0].Agent, Connection: found[0].Connection, Detail: marshal(map[string]any{"exception": exception})})
	return tx.ExecOne(ctx, `DELETE FROM grant_exceptions WHERE id = $1`, exception)
}

// Exceptions lists all there are, those that are over too.
func (s *Service) Exceptions(ctx context.Context) ([]Exception, error) {
	return readExceptions(ctx, s.o.DB, ` ORDER BY until`)
}

func readExceptions(ctx context.Context, q querier, where string, args ...any) ([]Exception, error) {
	return collect(ctx, q, func(rows *sql.Rows) (e Exception, err error) {
		var body string
		if err = rows.Scan(&body); err == nil && json.Unmarshal([]byte(body), &e) != nil {
			err = ErrStored
		}
		return e, err
	}, `SELECT body FROM grant_exceptions`+where, args...)
}
