package reviews

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/storage"
)

// Errors of asking for a grant.
var (
	ErrNoApprovers = fault.New(fault.Denied, "nobody_approves", "nobody is named who may approve grants of this connection; an administrator names a group with countersign grant approvers set")
	ErrAsk         = fault.New(fault.Invalid, "bad_grant_request", "the grant that is asked for is not valid")
	ErrNotFor      = fault.New(fault.Denied, "not_for_this_agent", "its owner, its backup owner or an operator asks for a grant for an agent, or the agent itself")
	ErrNoRequest   = fault.New(fault.NotFound, "grant_request_not_found", "there is no such request for a grant")
)

// Approvers say who may let agents have grants of a connection for a time.
type Approvers struct {
	ID         string    `json:"id"`
	Connection string    `json:"connection" doc:"* for every connection that has none of its own"`
	Groups     []string  `json:"groups" doc:"a member of any of them approves"`
	Quorum     int       `json:"quorum,omitzero" required:"false" doc:"distinct people; 1 if absent"`
	Longest    string    `json:"longest,omitzero" required:"false" doc:"for how long a grant may be asked, at most; 8h if absent"`
	Apart      bool      `json:"apart,omitzero" required:"false" doc:"the owner of the agent does not count"`
	Passkey    bool      `json:"passkey,omitzero" required:"false" doc:"who approves signs with their passkey"`
	Updated    time.Time `json:"updated,omitzero"`
}

const (
	usualLongest = 8 * time.Hour
	mostLongest  = 7 * day
	askLife      = 24 * time.Hour // to decide
	giveWithin   = 15 * time.Minute
)

func (a *Approvers) normalize() error {
	if a.Longest == "" {
		a.Longest = usualLongest.String()
	}
	a.Quorum = max(a.Quorum, 1)
	if d, err := time.ParseDuration(a.Longest); err != nil || d < time.Minute || d > mostLongest {
		return ErrAsk.Say("longest: a duration from 1m to %s", mostLongest)
	}
	if len(a.Groups) == 0 || len(a.Groups) > 20 || a.Quorum > 10 {
		return ErrAsk.Say("groups: name 1 to 20 groups, and a quorum of at most 10")
	}
	slices.Sort(a.Groups)
	a.Groups = slices.Compact(a.Groups)
	return nil
}

func (a *Approvers) longest() time.Duration { d, _ := time.ParseDuration(a.Longest); return d }

// rule names what decided whom to ask, as approvals are bound to it.
func (a *Approvers) rule() approvals.Rule {
	return approvals.Rule{Name: "approvers:" + a.Connection, Digest: digestOf(a.Connection, a.Groups, a.Quorum, a.Longest, a.Apart, a.Passkey)}
}

// SetApprovers says who approves grants of a connection, or of all that have none
// of their own (*). It reports what is in force.
func (s *Service) SetApprovers(ctx context.Context, by audit.Actor, reason string, a Approvers) (Approvers, error) {
	if err := checkReason(reason, false); err != nil {
		return a, err
	}
	if err := a.normalize(); err != nil {
		return a, err
	}
	if _, ok := s.o.Connections.Connection(a.Connection); !ok && a.Connection != "*" {
		return a, ErrAsk.Say("connection: there is no connection %q; * is for all that have none of their own", a.Connection)
	}
	for _, g := range a.Groups {
		if _, ok := s.o.Identity.Group(g); !ok {
			return a, ErrAsk.Say("groups: there is no group %q", g)
		}
	}
	a.ID, a.Updated = a.Connection, s.now()
	err := s.change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "grant.approvers_set", Actor: by, Reason: reason, Object: "approvers/" + a.Connection, Connection: named(a.Connection),
			Detail: marshal(map[string]any{"groups": a.Groups, "quorum": a.Quorum, "longest": a.Longest, "apart": a.Apart, "passkey": a.Passkey})})
		_, err := tx.Exec(ctx, `INSERT INTO grant_approvers (connection, body, updated) VALUES ($1, $2, $3) ON CONFLICT (connection) DO UPDATE SET body = excluded.body, updated = excluded.updated`,
			a.Connection, string(marshal(a)), storage.Micros(a.Updated))
		return err
	})
	return a, err
}

func named(connection string) string {
	if connection == "*" {
		return ""
	}
	return connection
}

// RemoveApprovers has nobody approve grants of a connection any more.
func (s *Service) RemoveApprovers(ctx context.Context, by audit.Actor, reason, connection string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	return s.change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "grant.approvers_removed", Actor: by, Reason: reason, Object: "approvers/" + connection, Connection: named(connection)})
		err := tx.ExecOne(ctx, `DELETE FROM grant_approvers WHERE connection = $1`, connection)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrNoApprovers
		}
		return err
	})
}

// Approvers lists who approves grants, by connection.
func (s *Service) Approvers(ctx context.Context) ([]Approvers, error) {
	return readApprovers(ctx, s.o.DB, ` ORDER BY connection`)
}

func readApprovers(ctx context.Context, q querier, where string, args ...any) ([]Approvers, error) {
	return collect(ctx, q, func(rows *sql.Rows) (a Approvers, err error) {
		var body string
		if err = rows.Scan(&body); err == nil && json.Unmarshal([]byte(body), &a) != nil {
			err = ErrStored
		}
		return a, err
	}, `SELECT body FROM grant_approvers`+where, args...)
}

// approversOf returns who approves grants of a connection: ErrNoApprovers.
func (s *Service) approversOf(ctx context.Context, connection string) (Approvers, error) {
	found, err := readApprovers(ctx, s.o.DB, ` WHERE connection = $1 OR connection = '*' ORDER BY CASE WHEN connection = '*' THEN 1 ELSE 0 END`, connection)
	if err != nil || len(found) == 0 {
		return Approvers{}, errors.Join(err, ErrNoApprovers)
	}
	return found[0], nil
}
