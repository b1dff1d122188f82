package approvals

import (
	"context"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Delegation lets one person decide in another's place for a time. It is not
// passed on: who stands in for someone does not stand in for those that one
// stands in for.
type Delegation struct {
	ID        string
	Giver     Person
	Taker     Person
	Since     time.Time
	Until     time.Time
	Reason    string
	CreatedBy string
	Created   time.Time
	Ended     time.Time // zero unless it was ended before its time
}

const (
	delegationID  id.Kind = "dlg"
	maxDelegation         = 90 * 24 * time.Hour
)

// Delegate lets taker decide in giver's place from since (zero: now) until
// until. Givers delegate for themselves, administrators for anyone.
func (s *Service) Delegate(ctx context.Context, by audit.Actor, reason, giver, taker string, since, until time.Time) (Delegation, error) {
	if err := checkReason(reason); err != nil {
		return Delegation{}, err
	}
	now := s.o.Now().UTC()
	if since.IsZero() {
		since = now
	}
	g, gok := s.identity.User(giver)
	t, tok := s.identity.User(taker)
	switch {
	case !gok || !tok || g.Disabled || t.Disabled || g.ID == t.ID:
		return Delegation{}, ErrDelegation
	case !until.After(since) || !until.After(now) || until.Sub(since) > maxDelegation:
		return Delegation{}, ErrDelegation
	case by.Name != giver && !s.admin(by):
		return Delegation{}, ErrNotEntitled.Say("people delegate for themselves; only an administrator delegates for someone else")
	}
	d := Delegation{ID: id.At(delegationID, now), Giver: Person{g.ID, g.Name}, Taker: Person{t.ID, t.Name}, Since: since, Until: until, Reason: reason, CreatedBy: by.Name, Created: now}
	err := s.log.Change(ctx, func(tx *audit.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO approval_delegations (id, giver, giver_name, taker, taker_name, since, until, reason, created_by, created, ended)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0)`, d.ID, d.Giver.ID, d.Giver.Name, d.Taker.ID, d.Taker.Name,
			storage.Micros(d.Since), storage.Micros(d.Until), d.Reason, d.CreatedBy, storage.Micros(d.Created))
		if err != nil {
			return err
		}
		tx.Record(audit.Event{Type: "approval.delegated", Actor: by, Reason: reason, Object: "delegation/" + d.ID,
			Detail: marshal(map[string]any{"giver": d.Giver, "taker": d.Taker, "since": d.Since, "until": d.Until})})
		return nil
	})
	return d, err
}

// EndDelegation ends a delegation before its time.
func (s *Service) EndDelegation(ctx context.Context, by audit.Actor, reason, delegation string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		found, err := readDelegations(ctx, tx, ` WHERE id = $1 AND ended = 0`, delegation)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return ErrNoDelegation
		}
		if by.Name != found[0].Giver.Name && by.Name != found[0].Taker.Name && !s.admin(by) {
			return ErrNoDelegation
		}
		if err := tx.ExecOne(ctx, `UPDATE approval_delegations SET ended = $1 WHERE id = $2 AND ended = 0`, storage.Micros(s.o.Now()), delegation); err != nil {
			return err
		}
		tx.Record(audit.Event{Type: "approval.delegation_ended", Actor: by, Reason: reason, Object: "delegation/" + delegation,
			Detail: marshal(map[string]any{"giver": found[0].Giver, "taker": found[0].Taker})})
		return nil
	})
}

// Delegations lists delegations that have not ended, the newest first.
func (s *Service) Delegations(ctx context.Context) ([]Delegation, error) {
	return readDelegations(ctx, s.db, ` WHERE ended = 0 AND until > $1 ORDER BY id DESC`, storage.Micros(s.o.Now()))
}

// standIns returns the delegations in force at a time.
func standIns(ctx context.Context, q querier, at time.Time) ([]Delegation, error) {
	return readDelegations(ctx, q, ` WHERE ended = 0 AND since <= $1 AND until > $1`, storage.Micros(at))
}

func readDelegations(ctx context.Context, q querier, where string, args ...any) ([]Delegation, error) {
	rows, err := q.Query(ctx, `SELECT id, giver, giver_name, taker, taker_name, since, until, reason, created_by, created, ended FROM approval_delegations`+where, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	out := []Delegation{}
	for rows.Next() {
		var d Delegation
		var since, until, created, ended int64
		if err := rows.Scan(&d.ID, &d.Giver.ID, &d.Giver.Name, &d.Taker.ID, &d.Taker.Name, &since, &until, &d.Reason, &d.CreatedBy, &created, &ended); err != nil {
			return nil, unavailable(err)
		}
		d.Since, d.Until, d.Created, d.Ended = storage.Time(since), storage.Time(until), storage.Time(created), storage.Time(ended)
		out = append(out, d)
	}
	return out, unavailable(rows.Err())
}

// admin reports whether by is an active administrator.
func (s *Service) admin(by audit.Actor) bool {
	u, ok := s.identity.User(by.Name)
	return by.Kind == audit.KindUser && ok && !u.Disabled && u.Role == "admin" && (by.ID == "" || by.ID == u.ID)
}

func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" || len([]rune(reason)) > 1000 || strings.ContainsRune(reason, 0) {
		return ErrReason
	}
	return nil
}
