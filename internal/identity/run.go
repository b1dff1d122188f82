package identity

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// The prefixes of a run token's identifier (its jti). A run that an agent began
// itself, with a proof of its own, is told by it wherever the identifier goes:
// into the lineage of what is exchanged for the token, and into held calls.
const (
	runCredential id.Kind = "rtk"
	ownCredential id.Kind = "rto"
)

// BeganItself reports whether the caller's run is one that an agent began
// itself: it can have as many of them as it likes.
func (c Caller) BeganItself() bool {
	own := func(credential string) bool { return strings.HasPrefix(credential, string(ownCredential)+"_") }
	return own(c.Credential.ID) || slices.ContainsFunc(c.Lineage, own)
}

// keepRuns is how long rows of expired runs are kept; the log keeps the runs.
const keepRuns = 90 * 24 * time.Hour

// Run is one task of an agent under a credential of its own.
type Run struct {
	ID         string // run_…
	Agent      string
	Credential string // identifier of the token
	StartedBy  string
	Started    time.Time
	Expires    time.Time
	Ended      time.Time // zero unless it was ended before it expired
}

// StartRun starts a run of an agent and returns its token, which is not kept.
// The token expires after expiresIn, RunUsual if that is zero. An agent that
// could make no call anyway is refused here already.
func (s *Service) StartRun(ctx context.Context, by audit.Actor, reason, agent string, expiresIn time.Duration) (r Run, token string, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		r, token, err = s.StartRunTx(ctx, tx, by, reason, agent, expiresIn)
		return err
	})
	return r, token, err
}

// StartRunTx is StartRun inside a change.
func (s *Service) StartRunTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string, expiresIn time.Duration) (Run, string, error) {
	return s.StartRunFromTx(ctx, tx, by, by.Name, reason, agent, expiresIn)
}

// StartRunFromTx is StartRunTx for a run that an agent began itself with a
// proof. origin says which, such as "trust/ci": EndRunsTx ends them together.
func (s *Service) StartRunFromTx(ctx context.Context, tx *audit.Tx, by audit.Actor, origin, reason, agent string, expiresIn time.Duration) (Run, string, error) {
	life, err := lifetime("the life of a run", expiresIn, RunUsual, RunMost)
	if err != nil {
		return Run{}, "", err
	}
	if life < time.Second {
		return Run{}, "", ErrInvalid.Say("a run lives at least a second")
	}
	if err := checkReason(reason, false); err != nil {
		return Run{}, "", err
	}
	a, err := readAgent(ctx, tx, agent)
	if err != nil {
		return Run{}, "", err
	}
	owners, err := readUsers(ctx, tx, a.Owner)
	switch {
	case err != nil:
		return Run{}, "", err
	case a.Suspended:
		return Run{}, "", ErrSuspended
	case (len(owners) == 0 || owners[0].Disabled) && !s.acting(a):
		return Run{}, "", ErrNoOwner
	}
	now, kind := s.now().UTC().Truncate(time.Second), runCredential
	if by.Kind == audit.KindAgent {
		kind = ownCredential
	}
	r := Run{ID: id.At(id.Run, now), Agent: a.Name, Credential: id.At(kind, now), StartedBy: origin, Started: now, Expires: now.Add(life.Truncate(time.Second))}
	token, err := s.runs.sign(runClaims{Subject: a.Name, AgentID: a.ID, Run: r.ID, ID: r.Credential, Issued: r.Started.Unix(), Expires: r.Expires.Unix()})
	if err != nil {
		return Run{}, "", err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM agent_runs WHERE expires < $1`, storage.Micros(now.Add(-keepRuns))); err != nil {
		return Run{}, "", err
	}
	_, err = tx.Exec(ctx, `INSERT INTO agent_runs (run, credential, agent, started_by, started, expires, ended, last_used) VALUES ($1, $2, $3, $4, $5, $6, 0, 0)`,
		r.ID, r.Credential, r.Agent, r.StartedBy, storage.Micros(r.Started), storage.Micros(r.Expires))
	if err != nil {
		return Run{}, "", err
	}
	// Nothing in the views of replicas changes, so nothing is announced.
	tx.Record(runEvent("run.started", by, reason, r, map[string]any{"expires": r.Expires}))
	return r, token, nil
}

func runEvent(t audit.Type, by audit.Actor, reason string, r Run, v any) audit.Event {
	ev := event(t, by, reason, object("run", r.ID), v)
	ev.Agent, ev.Run, ev.Credential = r.Agent, r.ID, r.Credential
	return ev
}

// RunOf returns a run that was started with a token of its own.
func (s *Service) RunOf(ctx context.Context, run string) (Run, error) { return readRun(ctx, s.db, run) }

// EndRun revokes a run's token. Ending an ended run changes nothing.
func (s *Service) EndRun(ctx context.Context, by audit.Actor, reason, run string) error {
	return s.change(ctx, func(tx *audit.Tx) error { return s.EndRunTx(ctx, tx, by, reason, run) })
}

// EndRunTx is EndRun inside a change.
func (s *Service) EndRunTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, run string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	r, err := readRun(ctx, tx, run)
	if err != nil || !r.Ended.IsZero() {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE agent_runs SET ended = $1 WHERE run = $2`, storage.Micros(s.now()), run); err != nil {
		return err
	}
	return record(ctx, tx, runEvent("run.ended", by, reason, r, nil))
}

// EndRunsTx ends every live run that was started from an origin, such as
// "trust/ci".
func (s *Service) EndRunsTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, origin string) error {
	runs, err := readNames(ctx, tx, `SELECT run FROM agent_runs WHERE started_by = $1 AND ended = 0 AND expires > $2 ORDER BY run`, origin, storage.Micros(s.now()))
	if err != nil {
		return err
	}
	for _, run := range runs {
		if err := s.EndRunTx(ctx, tx, by, reason, run); err != nil {
			return err
		}
	}
	return nil
}
