package lifecycle

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/storage"
)

// decommissionID is the prefix of a decommission's identifier.
const decommissionID id.Kind = "dcm"

// The states of a decommission, in their order. A step that was interrupted is
// begun again.
const (
	Prepared   = "prepared"    // credentials to be tried were made; nothing has ended yet
	Removed    = "removed"     // everything has ended; not yet tried
	Refused    = "refused"     // every credential was tried and refused
	LetThrough = "let_through" // one was let through: a lock stands, and somebody must look
)

// The door at which tokens are had; the kinds of credentials are identity's.
const tokenDoor = "/oauth2/token"

const (
	probeLife  = time.Hour
	retryFirst = 2 * time.Second
	retryMost  = 5 * time.Minute
	tellAfter  = 5 // tries
)

// Decommission is the end of an agent.
type Decommission struct {
	ID      string         `json:"id"`
	Agent   string         `json:"agent"`
	AgentID string         `json:"agent_id"`
	By      string         `json:"by"`
	Reason  string         `json:"reason"`
	State   string         `json:"state" enum:"prepared,removed,refused,let_through"`
	Created time.Time      `json:"created"`
	Ended   time.Time      `json:"ended,omitzero"`
	Removed map[string]int `json:"removed" doc:"how many of what ended"`
	Probes  []Probe        `json:"probes" doc:"what was tried"`
	Tries   int            `json:"tries" doc:"failed attempts to try it"`

	actor    audit.Actor
	sealed   []byte
	revision int64
}

// Probe is a credential that was tried at a door, before and after.
type Probe struct {
	Door    string `json:"door"`
	Kind    string `json:"kind" enum:"key,run,access"`
	Before  int    `json:"before" doc:"status of the answer before the decommission; 0 if it was not tried"`
	Worked  bool   `json:"worked" doc:"whether the credential was accepted then"`
	After   int    `json:"after" doc:"status of the answer afterwards; 0 if it was not tried yet"`
	Refused bool   `json:"refused" doc:"whether the credential was refused then"`
}

// Decommission ends an agent for good: in one transaction its keys, tokens,
// runs, grants, leases, rules of trust, consents, held calls and the connections
// that nobody else may use; then it tries credentials that worked before, which
// must be refused. It returns when that is known or, if the server could not be
// asked, with state Removed: the clock goes on. Of an agent whose decommission was
// interrupted it goes on too. Needs a reason.
func (s *Service) Decommission(ctx context.Context, by audit.Actor, reason, agent string) (Decommission, error) {
	if err := checkReason(reason); err != nil {
		return Decommission{}, err
	}
	d, err := s.prepare(ctx, by, reason, agent)
	if err != nil {
		return d, err
	}
	err = s.carry(ctx, &d)
	if errors.Is(err, ErrGone) { // another replica carries it on
		return s.find(ctx, s.o.DB, d.ID)
	}
	return d, err
}

// Decommissions lists them, the latest first.
func (s *Service) Decommissions(ctx context.Context) ([]Decommission, error) {
	return readDecommissions(ctx, s.o.DB, ` ORDER BY id DESC LIMIT 500`)
}

// ForgetDrills deletes the decommissions of throwaway agents, whose names begin
// with prefix, that are registered no more and were refused. The log keeps them.
func (s *Service) ForgetDrills(ctx context.Context, by audit.Actor, reason, prefix string) error {
	there, err := s.Decommissions(ctx)
	if err != nil {
		return err
	}
	over := func(d Decommission) bool {
		_, registered := s.o.Identity.Agent(d.Agent)
		return prefix != "" && strings.HasPrefix(d.Agent, prefix) && !registered && d.State == Refused
	}
	if there = slices.DeleteFunc(there, func(d Decommission) bool { return !over(d) }); len(there) == 0 {
		return nil
	}
	return s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		for _, d := range there {
			if _, err := tx.Exec(ctx, `DELETE FROM decommissions WHERE id = $1 AND revision = $2`, d.ID, d.revision); err != nil {
				return err
			}
		}
		tx.Record(audit.Event{Type: "agent.drills_forgotten", Actor: by, Reason: reason, Object: "agent/" + there[0].Agent, Detail: fmt.Appendf(nil, `{"decommissions":%d}`, len(there))})
		return nil
	})
}

func (s *Service) find(ctx context.Context, q querier, dcm string) (Decommission, error) {
	found, err := readDecommissions(ctx, q, ` WHERE id = $1`, dcm)
	if err != nil || len(found) == 0 {
		return Decommission{}, errors.Join(err, ErrNotFound)
	}
	return found[0], nil
}

// prepare makes the credentials that are to be tried, as the agent's own would
// be made, and keeps them sealed: who resumes this must be able to try them.
func (s *Service) prepare(ctx context.Context, by audit.Actor, reason, agent string) (d Decommission, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		a, err := s.o.Identity.AgentTx(ctx, tx, agent)
		if err != nil {
			return err
		}
		open, err := readDecommissions(ctx, tx, ` WHERE agent_id = $1`, a.ID)
		if err != nil {
			return err
		}
		if len(open) > 0 {
			d = open[0]
			if !a.Retired.IsZero() && d.State != Removed {
				return identity.ErrRetired
			}
			return errNothing
		}
		d = Decommission{ID: id.New(decommissionID), Agent: a.Name, AgentID: a.ID, By: by.Name, Reason: reason, State: Prepared, Created: s.o.Now(), Removed: map[string]int{}, actor: by, revision: 1}
		return s.begin(ctx, tx, &d, a)
	})
	if errors.Is(err, errNothing) {
		return d, nil
	}
	if err == nil {
		err = s.step("prepared")
	}
	return d, err
}

func (s *Service) begin(ctx context.Context, tx *audit.Tx, d *Decommission, a identity.Agent) error {
	const why = "to be tried after the decommission"
	values := map[string]string{}
	_, key, err := s.o.Identity.IssueKeyTx(ctx, tx, audit.System, why, a.Name, probeLife)
	if err != nil {
		return err
	}
	values[identity.KindKey] = key
	switch _, token, err := s.o.Identity.StartRunTx(ctx, tx, audit.System, why, a.Name, probeLife); {
	case err == nil:
		values[identity.KindRun] = token
	case !errors.Is(err, identity.ErrSuspended) && !errors.Is(err, identity.ErrNoOwner): // it could have none
		return err
	}
	for _, kind := range slices.Sorted(maps.Keys(values)) {
		for _, door := range append(s.o.Doors.Of(a), tokenDoor) {
			d.Probes = append(d.Probes, Probe{Door: door, Kind: kind})
		}
	}
	if d.sealed, err = s.seal(d.ID, values); err != nil {
		return err
	}
	if err := insertDecommission(ctx, tx, *d); err != nil {
		return err
	}
	tx.Record(event("agent.decommission_begun", d.actor, d.Reason, a, map[string]any{"decommission": d.ID}))
	return nil
}

func (s *Service) seal(dcm string, values map[string]string) ([]byte, error) {
	plain, err := json.Marshal(values, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return s.aead.Seal(nil, nil, plain, []byte("countersign probes\x00"+dcm)), nil
}

func (s *Service) unseal(d *Decommission) (values map[string]string, err error) {
	plain, err := s.aead.Open(nil, nil, d.sealed, []byte("countersign probes\x00"+d.ID))
	if err == nil {
		err = json.Unmarshal(plain, &values)
	}
	if err != nil {
		return nil, ErrStored.With(err)
	}
	return values, nil
}

// carry takes a decommission from its state to its end.
func (s *Service) carry(ctx context.Context, d *Decommission) error {
	values, err := s.unseal(d)
	if err != nil {
		return err
	}
	if d.State == Prepared {
		if err := s.before(ctx, d, values); err != nil {
			return err
		}
		if err := s.remove(ctx, d); err != nil {
			return err
		}
	}
	if d.State != Removed {
		return nil
	}
	return s.prove(ctx, d, values)
}

// before tries the credentials while they are good: what is refused afterwards
// was not refused for another reason. An access token for the same doors joins
// them. A door that gives no answer now is tried afterwards all the same.
func (s *Service) before(ctx context.Context, d *Decommission, values map[string]string) error {
	var doors []string
	for _, p := range d.Probes {
		if p.Kind == identity.KindKey && p.Door != tokenDoor {
			doors = append(doors, p.Door)
		}
	}
	if values[identity.KindAccess] == "" && len(doors) > 0 {
		if token, err := s.o.Doors.Token(ctx, values[identity.KindKey], doors); err != nil {
			s.o.Logger.InfoContext(ctx, "no access token to try after a decommission", "agent", d.Agent, "error", err)
		} else {
			values[identity.KindAccess] = token
			for _, door := range append(doors, tokenDoor) {
				d.Probes = append(d.Probes, Probe{Door: door, Kind: identity.KindAccess})
			}
		}
	}
	for i := range d.Probes {
		p := &d.Probes[i]
		status, refused, err := s.o.Doors.Try(ctx, p.Door, values[p.Kind])
		if err != nil {
			continue
		}
		p.Before, p.Worked = status, !refused
	}
	var err error
	if d.sealed, err = s.seal(d.ID, values); err != nil {
		return err
	}
	if err := s.o.DB.Tx(ctx, func(tx *storage.Tx) error { return saveDecommission(ctx, tx, d, s.o.Now()) }); err != nil {
		return err
	}
	return s.step("before")
}

// remove is the one transaction.
func (s *Service) remove(ctx context.Context, d *Decommission) error {
	next := *d
	err := s.change(ctx, func(tx *audit.Tx) error {
		next = *d
		next.Removed = map[string]int{}
		a, err := s.o.Identity.AgentTx(ctx, tx, d.Agent)
		if err != nil {
			return err
		}
		if a.ID != d.AgentID {
			return ErrGone
		}
		for _, part := range s.o.Parts {
			ended, err := part.End(ctx, tx, d.actor, d.Reason, a)
			if err != nil {
				return fmt.Errorf("%s: %w", part.Name, err)
			}
			maps.Copy(next.Removed, ended)
		}
		ended, err := s.o.Identity.RetireTx(ctx, tx, d.actor, d.Reason, d.Agent)
		if err != nil {
			return err
		}
		maps.Copy(next.Removed, ended)
		for _, q := range []string{`DELETE FROM departures WHERE agent = $1`, `DELETE FROM agent_offers WHERE agent = $1`, `DELETE FROM agent_idle WHERE agent = $1`} {
			if _, err := tx.Exec(ctx, q, d.Agent); err != nil {
				return err
			}
		}
		if err := s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object(d.Agent), "it was decommissioned", RuleOwnerLeft, RuleBackupLeft, RuleOwnerMoved, RuleIdle); err != nil {
			return err
		}
		if err := s.step("removing"); err != nil {
			return err
		}
		next.State = Removed
		return errors.Join(bump(ctx, tx), saveDecommission(ctx, tx.Tx, &next, s.o.Now()))
	})
	if err != nil {
		return err
	}
	*d = next
	for _, part := range s.o.Parts {
		if part.After != nil {
			part.After()
		}
	}
	return s.step("removed")
}

// prove tries every credential again. What it finds out is an event; what was
// let through is a critical finding and a lock.
func (s *Service) prove(ctx context.Context, d *Decommission, values map[string]string) error {
	var failed error
	through := []string{}
	for i := range d.Probes {
		p := &d.Probes[i]
		status, refused, err := s.o.Doors.Try(ctx, p.Door, values[p.Kind])
		if err != nil {
			failed = err
			continue
		}
		p.After, p.Refused = status, refused
		if !refused {
			through = append(through, p.Kind+" at "+p.Door)
		}
	}
	if err := s.step("tried"); err != nil {
		return err
	}
	if failed != nil && len(through) == 0 {
		return s.again(ctx, d, failed)
	}
	next := *d
	err := s.change(ctx, func(tx *audit.Tx) error {
		next = *d
		next.Ended, next.State = s.o.Now(), Refused
		a, err := s.o.Identity.AgentTx(ctx, tx, d.Agent)
		if err != nil {
			return err
		}
		if next.sealed, err = s.seal(d.ID, map[string]string{}); err != nil { // nobody needs them any more
			return err
		}
		kind := audit.Type("agent.decommission_proved")
		if len(through) > 0 {
			next.State, kind = LetThrough, "agent.decommission_failed"
			if err := s.alarm(ctx, tx, d, through); err != nil {
				return err
			}
		} else if err := s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object(d.Agent), "it was tried now, and refused", RuleProbe); err != nil {
			return err
		}
		tx.Record(event(kind, audit.System, "", a, map[string]any{"decommission": d.ID, "probes": d.Probes, "let_through": through}))
		if err := bump(ctx, tx); err != nil {
			return err
		}
		return saveDecommission(ctx, tx.Tx, &next, s.o.Now())
	})
	if err == nil {
		*d = next
	}
	return err
}

func (s *Service) alarm(ctx context.Context, tx *audit.Tx, d *Decommission, through []string) error {
	lock, err := s.o.Locks.AddTx(ctx, tx, audit.System, locks.Lock{Kind: locks.Agent, Name: d.Agent, Reason: "decommissioned, and yet let through (" + d.ID + ")"}, 0)
	if err != nil {
		return err
	}
	return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleProbe, Severity: findings.Critical, Object: object(d.Agent), Title: "Agent " + d.Agent + " was decommissioned, and a credential of it still works",
		Detail: fmt.Sprintf("Let through: %v. The agent is locked (%s); find out why before you lift it.", through, lock.ID)})
}

// again notes that the server could not be asked, and when to ask next.
func (s *Service) again(ctx context.Context, d *Decommission, why error) error {
	d.Tries++
	wait := min(retryFirst<<min(d.Tries, 10), retryMost)
	if d.Tries == tellAfter {
		if err := s.o.Findings.Open(ctx, findings.Finding{Rule: RuleProbe, Severity: findings.High, Object: object(d.Agent), Title: "The decommission of agent " + d.Agent + " could not be tried",
			Detail: "Everything it had has ended, but its old credentials could not be presented: " + fault.Public(why).Message + ". It is tried again."}); err != nil {
			return err
		}
	}
	return s.o.DB.Tx(ctx, func(tx *storage.Tx) error { return saveDecommission(ctx, tx, d, s.o.Now().Add(wait)) })
}

// patience is for how long a decommission is left to whoever began it.
const patience = 15 * time.Second

// continueAll carries on what was interrupted.
func (s *Service) continueAll(ctx context.Context, lease *job.Lease) error {
	now := s.o.Now()
	due, err := readDecommissions(ctx, s.o.DB, ` WHERE (state = $1 AND due <= $2) OR (state = $3 AND due <= CASE WHEN tries = 0 THEN $2 ELSE $4 END) ORDER BY id LIMIT 10`,
		Prepared, storage.Micros(now.Add(-patience)), Removed, storage.Micros(now))
	if err != nil {
		return err
	}
	var all []error
	for i := range due {
		if err := lease.Renew(ctx); err != nil {
			return err
		}
		if err := s.carry(ctx, &due[i]); err != nil && !errors.Is(err, ErrGone) {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}
