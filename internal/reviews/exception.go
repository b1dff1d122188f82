package reviews

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// RuleStanding is of findings about grants that stand without an end.
const RuleStanding = "grant.standing"

const exceptionID id.Kind = "gex"

// Errors of exceptions.
var (
	ErrException   = fault.New(fault.Invalid, "bad_exception", "an exception needs a grant, an active owner, a reason and an end within a year")
	ErrNoException = fault.New(fault.NotFound, "exception_not_found", "there is no such exception")
)

// Exception says that a grant may stand without an end of its own although it
// reaches, in production, what cannot be undone.
type Exception struct {
	ID      string    `json:"id"`
	Grant   string    `json:"grant"`
	GrantID string    `json:"grant_id"`
	Owner   string    `json:"owner" doc:"who answers for it"`
	Reason  string    `json:"reason"`
	Until   time.Time `json:"until"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
}

// Except makes an exception for a grant, in the place of one before. Needs a reason.
func (s *Service) Except(ctx context.Context, by audit.Actor, reason, grant, owner string, until time.Time) (Exception, error) {
	if err := checkReason(reason, true); err != nil {
		return Exception{}, err
	}
	g, err := s.o.Policy.Grant(ctx, grant)
	if err != nil {
		return Exception{}, err
	}
	now := s.now()
	u, ok := s.o.Identity.User(owner)
	switch {
	case !ok || !u.May(rest.Own):
		return Exception{}, ErrException.Say("owner: %q is no active user who may own agents", owner)
	case !until.After(now) || until.Sub(now) > longestDue:
		return Exception{}, ErrException.Say("until: must be in the future, at most a year away")
	}
	e := Exception{ID: id.At(exceptionID, now), Grant: g.Name, GrantID: g.ID, Owner: owner, Reason: reason, Until: until.UTC().Truncate(time.Microsecond), By: by.Name, Created: now}
	err = s.change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "grant.exception_made", Actor: by, Reason: reason, Object: "grant/" + g.Name, Agent: g.Agent, Connection: g.Connection,
			Detail: marshal(map[string]any{"exception": e.ID, "grant": g.ID, "owner": owner, "until": e.Until})})
		_, err := tx.Exec(ctx, `INSERT INTO grant_exceptions (id, grant_id, until, body) VALUES ($1, $2, $3, $4)
			ON CONFLICT (grant_id) DO UPDATE SET id = excluded.id, until = excluded.until, body = excluded.body`, e.ID, e.GrantID, storage.Micros(e.Until), string(marshal(e)))
		return err
	})
	if err == nil {
		err = s.lookAtStanding(ctx)
	}
	return e, err
}

// EndException ends one before its time.
func (s *Service) EndException(ctx context.Context, by audit.Actor, reason, exception string) error {
	if err := checkReason(reason, true); err != nil {
		return err
	}
	err := s.change(ctx, func(tx *audit.Tx) error {
		found, err := readExceptions(ctx, tx, ` WHERE id = $1`, exception)
		if err != nil || len(found) == 0 {
			return errors.Join(err, ErrNoException)
		}
		tx.Record(audit.Event{Type: "grant.exception_ended", Actor: by, Reason: reason, Object: "grant/" + found[0].Grant, Detail: marshal(map[string]any{"exception": exception})})
		return tx.ExecOne(ctx, `DELETE FROM grant_exceptions WHERE id = $1`, exception)
	})
	if err != nil {
		return err
	}
	return s.lookAtStanding(ctx)
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

// standing returns the grants that reach, in production and without an end, what
// cannot be undone, and for which no exception is in force.
func (s *Service) standing(ctx context.Context) (map[string]string, error) {
	all, err := s.o.Policy.Grants(ctx, "")
	if err != nil {
		return nil, err
	}
	known, err := s.Exceptions(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, g := range all {
		a, ok := s.o.Identity.Agent(g.Agent)
		if _, final := s.effects(g); !ok || a.Stage != identity.Production || !a.Retired.IsZero() || !g.Expires.IsZero() || !final {
			continue
		}
		if !slices.ContainsFunc(known, func(e Exception) bool { return s.holds(e, g.ID) }) {
			out["grant/"+g.Name] = g.Name
		}
	}
	return out, nil
}

// holds reports whether an exception is in force for a grant: its time is not over
// and somebody answers for it.
func (s *Service) holds(e Exception, grant string) bool {
	u, ok := s.o.Identity.User(e.Owner)
	return e.GrantID == grant && s.now().Before(e.Until) && ok && !u.Disabled
}

// lookAtStanding opens a finding for each standing right without an exception, and
// closes those of rights that are none any more. Nothing is taken away: what was
// given before there were exceptions goes on working.
func (s *Service) lookAtStanding(ctx context.Context) error {
	want, err := s.standing(ctx)
	if err != nil {
		return err
	}
	have, err := s.o.Findings.List(ctx, findings.Query{Rule: RuleStanding, Status: findings.Open})
	if err != nil {
		return err
	}
	open := map[string]bool{}
	for _, f := range have {
		open[f.Object] = true
	}
	return s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		for object, name := range want {
			if open[object] {
				continue
			}
			if err := s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleStanding, Severity: findings.Medium, Object: object, Title: "The grant " + name + " lets an agent in production do what cannot be undone, without an end",
				Detail: "Give it an end (countersign grant add " + name + " … --expires 90d), have it asked for when it is needed (countersign grant request), or say who answers for it, why and until when: countersign grant exception add " + name + " --owner USER --until 90d --reason TEXT"}); err != nil {
				return err
			}
		}
		for object := range open {
			if want[object] != "" {
				continue
			}
			if err := s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object, "it has an end, an exception, or is gone", RuleStanding); err != nil {
				return err
			}
		}
		return nil
	})
}
