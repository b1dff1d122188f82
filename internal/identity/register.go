package identity

import (
	"context"
	"encoding/json/v2"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// PutAgent creates or updates an agent; it reports whether anything changed.
// ID, Suspended, Created and LastCall of a are ignored. A change of owner is
// an event of its own and needs a reason.
func (s *Service) PutAgent(ctx context.Context, by audit.Actor, reason string, a Agent) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.PutAgentTx(ctx, tx, by, reason, a)
		return err
	})
	return changed, err
}

// PutAgentTx is PutAgent inside a change.
func (s *Service) PutAgentTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, a Agent) (bool, error) {
	if err := a.validate(); err != nil {
		return false, err
	}
	if err := checkReason(reason, false); err != nil {
		return false, err
	}
	found, err := readAgents(ctx, tx, a.Name)
	if err != nil {
		return false, err
	}
	if len(found) == 0 {
		return true, s.createAgent(ctx, tx, by, reason, a)
	}
	old := found[0]
	fields := a.changes(old)
	if len(fields) == 0 && a.Owner == old.Owner {
		return false, nil
	}
	return true, s.updateAgent(ctx, tx, by, reason, old, a, fields)
}

func (s *Service) createAgent(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, a Agent) error {
	if err := mayOwn(ctx, tx, a, Agent{}); err != nil {
		return err
	}
	now := s.now()
	a.ID = id.At(id.Agent, now)
	labels, err := marshalLabels(a.Labels)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO agents (name, id, owner, backup, team, purpose, business_process, stage, labels, suspended, created, last_call, revision)
		VALUES ($1, $2, $3, NULLIF($4, ''), NULLIF($5, ''), $6, $7, $8, $9, $10, $11, 0, 1)`,
		a.Name, a.ID, a.Owner, a.Backup, a.Team, a.Purpose, a.BusinessProcess, a.Stage, labels, false, storage.Micros(now))
	if err != nil {
		return err
	}
	ev := agentEvent("agent.created", by, reason, a, map[string]any{"id": a.ID, "backup": a.Backup, "purpose": a.Purpose, "business_process": a.BusinessProcess, "labels": a.Labels})
	return record(ctx, tx, ev)
}

func (s *Service) updateAgent(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, old, a Agent, fields changes) error {
	if !old.Retired.IsZero() {
		return ErrRetired
	}
	if a.Owner != old.Owner {
		if err := checkReason(reason, true); err != nil {
			return err
		}
	}
	if err := mayOwn(ctx, tx, a, old); err != nil {
		return err
	}
	labels, err := marshalLabels(a.Labels)
	if err != nil {
		return err
	}
	err = swap(ctx, tx, `UPDATE agents SET owner = $1, backup = NULLIF($2, ''), team = NULLIF($3, ''), purpose = $4, business_process = $5, stage = $6, labels = $7, revision = revision + 1
		WHERE name = $8 AND revision = $9`, a.Owner, a.Backup, a.Team, a.Purpose, a.BusinessProcess, a.Stage, labels, a.Name, old.revision)
	if err != nil {
		return err
	}
	var events []audit.Event
	if a.Owner != old.Owner {
		events = append(events, agentEvent("agent.owner_changed", by, reason, a, map[string]any{"owner": [2]string{old.Owner, a.Owner}}))
	}
	if len(fields) > 0 {
		events = append(events, agentEvent("agent.updated", by, reason, a, fields))
	}
	if err := record(ctx, tx, events...); err != nil {
		return err
	}
	a.ID, a.Suspended, a.Created, a.LastCall = old.ID, old.Suspended, old.Created, old.LastCall
	if a.Stage != old.Stage && s.staged != nil {
		if err := s.staged(ctx, tx, a); err != nil {
			return err
		}
	}
	return s.agentChanged(ctx, tx, by, reason, old, a)
}

func marshalLabels(labels map[string]string) (string, error) {
	if labels == nil {
		labels = map[string]string{}
	}
	b, err := json.Marshal(labels, json.Deterministic(true))
	return string(b), err
}

func agentEvent(t audit.Type, by audit.Actor, reason string, a Agent, v any) audit.Event {
	ev := event(t, by, reason, object("agent", a.Name), v)
	ev.Agent, ev.Owner, ev.Team, ev.Stage = a.Name, a.Owner, a.Team, a.Stage
	return ev
}

// mayOwn checks the people and the team an agent names. A new owner must be
// active; one who stays need not be, so that an agent can be edited meanwhile.
func mayOwn(ctx context.Context, q querier, a, old Agent) error {
	what := "agent " + a.Name + ": "
	if err := exists(ctx, q, what+"owner", a.Owner); err != nil {
		return err
	}
	if a.Owner != old.Owner {
		u, err := readUser(ctx, q, a.Owner)
		if err != nil {
			return err
		}
		if u.Disabled {
			return ErrInvalid.Say("%sowner: the user %q is disabled; name an active one", what, a.Owner)
		}
	}
	if a.Backup != "" {
		if err := exists(ctx, q, what+"backup", a.Backup); err != nil {
			return err
		}
	}
	if a.Team != "" {
		found, err := readNames(ctx, q, `SELECT name FROM teams WHERE name = $1`, a.Team)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return ErrInvalid.Say("%steam: there is no team %q; create it first", what, a.Team)
		}
	}
	return nil
}

// SetOwner gives an agent another owner, and another backup unless that is
// empty. A backup who becomes owner is no longer backup. Needs a reason.
func (s *Service) SetOwner(ctx context.Context, by audit.Actor, reason, agent, owner, backup string) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.SetOwnerTx(ctx, tx, by, reason, agent, owner, backup)
		return err
	})
	return changed, err
}

// SetOwnerTx is SetOwner inside a change.
func (s *Service) SetOwnerTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent, owner, backup string) (bool, error) {
	if err := checkReason(reason, true); err != nil {
		return false, err
	}
	a, err := readAgent(ctx, tx, agent)
	if err != nil {
		return false, err
	}
	a.Owner = owner
	if backup != "" {
		a.Backup = backup
	} else if a.Backup == owner {
		a.Backup = ""
	}
	return s.PutAgentTx(ctx, tx, by, reason, a)
}

// SetStageTx moves an agent to another stage, inside a change; it reports whether
// that changed anything.
func (s *Service) SetStageTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent, stage string) (bool, error) {
	a, err := readAgent(ctx, tx, agent)
	if err != nil {
		return false, err
	}
	a.Stage = stage
	return s.PutAgentTx(ctx, tx, by, reason, a)
}

// Suspend stops an agent from making calls until it is resumed; it reports
// whether it was not suspended already. Needs a reason.
func (s *Service) Suspend(ctx context.Context, by audit.Actor, reason, agent string) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.SuspendTx(ctx, tx, by, reason, agent)
		return err
	})
	return changed, err
}

// SuspendTx is Suspend inside a change.
func (s *Service) SuspendTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string) (bool, error) {
	return s.setSuspended(ctx, tx, by, reason, agent, true, "agent.suspended")
}

// Resume lets a suspended agent make calls again. Needs a reason.
func (s *Service) Resume(ctx context.Context, by audit.Actor, reason, agent string) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.ResumeTx(ctx, tx, by, reason, agent)
		return err
	})
	return changed, err
}

// ResumeTx is Resume inside a change.
func (s *Service) ResumeTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string) (bool, error) {
	return s.setSuspended(ctx, tx, by, reason, agent, false, "agent.resumed")
}

func (s *Service) setSuspended(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string, to bool, t audit.Type) (bool, error) {
	if err := checkReason(reason, true); err != nil {
		return false, err
	}
	a, err := readAgent(ctx, tx, agent)
	if err != nil || a.Suspended == to {
		return false, err
	}
	if !a.Retired.IsZero() {
		return false, ErrRetired
	}
	// Without comparing revisions: a stop must not lose a race against an edit.
	if err := swap(ctx, tx, `UPDATE agents SET suspended = $1, revision = revision + 1 WHERE name = $2`, to, agent); err != nil {
		return false, err
	}
	if err := record(ctx, tx, agentEvent(t, by, reason, a, nil)); err != nil {
		return true, err
	}
	now := a
	now.Suspended = to
	return true, s.agentChanged(ctx, tx, by, reason, a, now)
}

// agentChanged tells who follows.
func (s *Service) agentChanged(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, old, now Agent) error {
	if s.follower == nil {
		return nil
	}
	return s.follower.AgentChanged(ctx, tx, by, reason, old, now)
}

// DeleteAgent deletes an agent with its keys and runs. What it did stays in
// the log. An agent made later under the same name shares nothing with it.
func (s *Service) DeleteAgent(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error { return s.DeleteAgentTx(ctx, tx, by, reason, name) })
}

// DeleteAgentTx is DeleteAgent inside a change.
func (s *Service) DeleteAgentTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	a, err := readAgent(ctx, tx, name)
	if err != nil {
		return err
	}
	if err := s.askBeforeDelete(ctx, tx, by, reason, object("agent", name)); err != nil {
		return err
	}
	for _, q := range []string{`DELETE FROM agent_runs WHERE agent = $1`, `DELETE FROM agent_keys WHERE agent = $1`, `DELETE FROM agents WHERE name = $1`} {
		if _, err := tx.Exec(ctx, q, name); err != nil {
			return err
		}
	}
	return record(ctx, tx, agentEvent("agent.deleted", by, reason, a, map[string]any{"id": a.ID}))
}
