package lifecycle

import (
	"context"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
)

// wasSuspended marks a departure of an agent that somebody had suspended
// before: it is not ours to resume.
const wasSuspended = -1

// Departure says that the owner of an agent has left.
type Departure struct {
	Agent     string    `json:"agent"`
	Owner     string    `json:"owner" doc:"who left"`
	Began     time.Time `json:"began"`
	Deadline  time.Time `json:"deadline" doc:"until then an active backup owner answers for the agent"`
	Suspended time.Time `json:"suspended,omitzero" doc:"when it was suspended for it"`
	before    bool      // it was suspended already
}

// UserTurned implements identity.Follower.
func (s *Service) UserTurned(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, u identity.User) error {
	agents, err := readAgentNames(ctx, tx, `SELECT name FROM agents WHERE owner = $1 AND retired = 0 ORDER BY name`, u.Name)
	if err != nil {
		return err
	}
	for _, name := range agents {
		a, err := s.o.Identity.AgentTx(ctx, tx, name)
		if err != nil {
			return err
		}
		if u.Disabled {
			err = s.leave(ctx, tx, reason, a)
		} else {
			err = s.settle(ctx, tx, "its owner "+u.Name+" is back", a)
		}
		if err != nil {
			return err
		}
	}
	return s.backupTurned(ctx, tx, u)
}

func (s *Service) backupTurned(ctx context.Context, tx *audit.Tx, u identity.User) error {
	agents, err := readAgentNames(ctx, tx, `SELECT name FROM agents WHERE backup = $1 AND retired = 0 ORDER BY name`, u.Name)
	if err != nil {
		return err
	}
	for _, name := range agents {
		if !u.Disabled {
			err = s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object(name), "the backup owner is back", RuleBackupLeft)
		} else {
			err = s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleBackupLeft, Severity: findings.Low, Object: object(name), Title: "The backup owner of agent " + name + " has left",
				Detail: u.Name + " is disabled: nobody would answer for the agent if its owner left. Name another backup: countersign agent update " + name + " --backup USER"})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// grace is for how long the backup may answer for an agent.
func (s *Service) grace(a identity.Agent) time.Duration {
	if a.Stage == identity.Production {
		return s.o.Production
	}
	return s.o.Grace
}

// leave begins the clock of an agent whose owner left.
func (s *Service) leave(ctx context.Context, tx *audit.Tx, reason string, a identity.Agent) error {
	now := s.o.Now()
	d := Departure{Agent: a.Name, Owner: a.Owner, Began: now, Deadline: now.Add(s.grace(a))}
	if err := insertDeparture(ctx, tx, d); err != nil {
		return err
	}
	tx.Record(event("agent.owner_left", audit.System, reason, a, map[string]any{"left": a.Owner, "backup": a.Backup, "deadline": d.Deadline}))
	if !d.Deadline.After(now) {
		return s.expire(ctx, tx, d, a)
	}
	return s.tell(ctx, tx, d, a, findings.Medium)
}

// expire suspends an agent whose owner left and for whom nobody answers any more.
func (s *Service) expire(ctx context.Context, tx *audit.Tx, d Departure, a identity.Agent) error {
	did, err := s.o.Identity.SuspendTx(ctx, tx, audit.System, "its owner "+d.Owner+" left, and nobody accepted it", a.Name)
	if err != nil {
		return err
	}
	mark := storage.Micros(s.o.Now())
	if !did {
		mark = wasSuspended
	}
	if err := tx.ExecOne(ctx, `UPDATE departures SET suspended = $1 WHERE agent = $2`, mark, a.Name); err != nil {
		return err
	}
	tx.Record(event("agent.grace_ended", audit.System, "", a, map[string]any{"left": d.Owner, "suspended": did}))
	d.Suspended = s.o.Now()
	severity := findings.Medium
	if a.Stage == identity.Production {
		severity = findings.High
	}
	return s.tell(ctx, tx, d, a, severity)
}

func (s *Service) tell(ctx context.Context, tx *audit.Tx, d Departure, a identity.Agent, severity string) error {
	who := "It has no backup owner: give it an owner (countersign agent owner " + a.Name + " USER)."
	if a.Backup != "" {
		who = "Its backup owner " + a.Backup + " can accept it (countersign agent accept " + a.Name + "), or it gets another owner (countersign agent owner " + a.Name + " USER)."
	}
	title, detail := "The owner of agent "+a.Name+" has left", "Its backup owner answers for it until "+d.Deadline.UTC().Format(time.RFC3339)+"; then it is suspended. "
	if a.Backup == "" {
		detail = "Nobody answers for it, so it makes no call. "
	}
	if !d.Suspended.IsZero() {
		title, detail = "Agent "+a.Name+" is suspended: its owner has left", d.Owner+" left at "+d.Began.UTC().Format(time.RFC3339)+". "
	}
	if err := s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleOwnerLeft, Severity: severity, Object: object(a.Name), Title: title, Detail: detail + who}); err != nil {
		return err
	}
	return bump(ctx, tx)
}

// settle ends the departure of an agent that has an active owner again, and
// resumes it if it was suspended for that alone.
func (s *Service) settle(ctx context.Context, tx *audit.Tx, why string, a identity.Agent) error {
	found, err := readDepartures(ctx, tx, ` WHERE agent = $1`, a.Name)
	if err != nil || len(found) == 0 {
		return err
	}
	d := found[0]
	if err := tx.ExecOne(ctx, `DELETE FROM departures WHERE agent = $1`, a.Name); err != nil {
		return err
	}
	tx.Record(event("agent.owner_settled", audit.System, why, a, map[string]any{"left": d.Owner}))
	if err := s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object(a.Name), why, RuleOwnerLeft); err != nil {
		return err
	}
	if !d.Suspended.IsZero() && !d.before {
		if _, err := s.o.Identity.ResumeTx(ctx, tx, audit.System, why, a.Name); err != nil {
			return err
		}
	}
	return bump(ctx, tx)
}

// AgentChanged implements identity.Follower.
func (s *Service) AgentChanged(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, old, now identity.Agent) error {
	if now.Owner != old.Owner {
		if err := s.settle(ctx, tx, "it has another owner: "+now.Owner, now); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM agent_offers WHERE agent = $1`, now.Name); err != nil {
			return err
		}
	}
	if now.Owner != old.Owner || now.Team != old.Team {
		if err := s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object(now.Name), "it has another owner or team", RuleOwnerMoved); err != nil {
			return err
		}
	}
	if now.Backup != old.Backup {
		if err := s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object(now.Name), "it has another backup owner", RuleBackupLeft); err != nil {
			return err
		}
	}
	if now.Stage == identity.Production && old.Stage != now.Stage { // what stage it has decides how long the backup may answer
		at := storage.Micros(s.o.Now().Add(s.o.Production))
		if _, err := tx.Exec(ctx, `UPDATE departures SET deadline = $1 WHERE agent = $2 AND deadline > $1`, at, now.Name); err != nil {
			return err
		}
		if err := bump(ctx, tx); err != nil {
			return err
		}
	}
	if old.Suspended && !now.Suspended {
		return s.resumed(ctx, tx, now)
	}
	return nil
}

// resumed refuses to resume an agent whose owner left: it could make no call
// anyway. One that was idle counts as used from now on.
func (s *Service) resumed(ctx context.Context, tx *audit.Tx, a identity.Agent) error {
	open, err := readDepartures(ctx, tx, ` WHERE agent = $1`, a.Name)
	switch {
	case err != nil:
		return err
	case len(open) > 0:
		return ErrOwnerOff
	}
	if _, err := tx.Exec(ctx, `INSERT INTO agent_idle (agent, since) VALUES ($1, $2) ON CONFLICT (agent) DO UPDATE SET since = excluded.since`, a.Name, storage.Micros(s.o.Now())); err != nil {
		return err
	}
	return s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object(a.Name), "it was resumed", RuleIdle)
}

// TeamChanged implements identity.Follower: who moves to another team leaves
// agents behind that the team keeps.
func (s *Service) TeamChanged(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, old, now identity.Team) error {
	names, err := readAgentNames(ctx, tx, `SELECT name FROM agents WHERE team = $1 AND retired = 0 ORDER BY name`, now.Name)
	if err != nil {
		return err
	}
	for _, name := range names {
		a, err := s.o.Identity.AgentTx(ctx, tx, name)
		if err != nil {
			return err
		}
		was, is := slices.Contains(old.Members, a.Owner), slices.Contains(now.Members, a.Owner)
		switch {
		case was && !is:
			tx.Record(event("agent.owner_moved", by, reason, a, map[string]any{"left_team": now.Name}))
			err = s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleOwnerMoved, Severity: findings.Medium, Object: object(name), Title: "The owner of agent " + name + " has left its team",
				Detail: a.Owner + " is no longer a member of " + now.Name + ". Give the agent to somebody who is (countersign agent give " + name + " --to USER), or let it move too (countersign agent update " + name + " --team TEAM): its policies and locks follow its team."})
		case is && !was:
			err = s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object(name), "its owner is a member again", RuleOwnerMoved)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
