package releases

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/job"
)

const (
	judgeEvery = 250 * time.Millisecond
	judgeLease = 5 * time.Second
	judgeSlice = 512 // records of a lane at once
)

// RuleRolledBack is the rule of findings about canaries that rolled themselves back.
const RuleRolledBack = "release.rolled_back"

// Judge follows the log while canaries are tried and rolls back those whose
// signals are bad. One replica does it; another goes on from where the canary
// began, and comes to the same.
type Judge struct {
	s      *Service
	lease  *job.Lease
	tried  map[string]*trial // by agent
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// trial is what was seen of a canary.
type trial struct {
	state    State
	at       audit.Cursor
	calls    int64 // decided
	refused  int64
	ended    int64
	failed   int64
	finding  string // that passes the limit
	severity string
}

// NewJudge returns a stopped Judge.
func (s *Service) NewJudge() *Judge {
	return &Judge{s: s, lease: job.NewLease(s.o.DB, "releases/canaries", judgeLease), tried: map[string]*trial{}}
}

// Start begins to judge.
func (j *Judge) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	j.cancel = cancel
	j.done.Go(func() {
		tick := time.NewTicker(judgeEvery)
		defer tick.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-tick.C:
			}
			if err := j.Look(run); err != nil && run.Err() == nil {
				j.s.o.Logger.Error("a canary could not be judged; trying again", "error", err)
			}
		}
	})
	return nil
}

// Stop ends it. It may be called without Start and more than once.
func (j *Judge) Stop(context.Context) error {
	if j.cancel != nil {
		j.cancel()
		j.done.Wait()
		j.cancel = nil
	}
	return nil
}

// Look judges every canary by what the log says by now.
func (j *Judge) Look(ctx context.Context) error {
	now := j.s.canaries()
	if len(now) == 0 {
		clear(j.tried)
		return nil
	}
	if ours, err := j.lease.Acquire(ctx); err != nil || !ours {
		clear(j.tried) // another replica judges
		return err
	}
	var failed error
	for _, st := range now {
		t := j.tried[st.Agent]
		if t == nil || t.state.revision != st.revision {
			t = &trial{state: st, at: audit.Cursor{}}
			if err := json.Unmarshal([]byte(st.position), &t.at); err != nil {
				return fmt.Errorf("releases: where the canary of %s began: %w", st.Agent, err)
			}
			j.tried[st.Agent] = t
		}
		failed = errors.Join(failed, j.judge(ctx, t))
	}
	return failed
}

// judge reads on and rolls back if a limit is passed.
func (j *Judge) judge(ctx context.Context, t *trial) error {
	for t.bad() == "" {
		n, err := j.s.o.Log.Next(ctx, t.at, judgeSlice, false, func(r audit.Record) error {
			t.at[r.Lane] = r.SN
			t.see(r.Event)
			return nil
		})
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
	return j.s.giveUp(ctx, t)
}

// see counts an event if it is of the canary.
func (t *trial) see(ev audit.Event) {
	if ev.Type == "finding.opened" || ev.Type == "finding.reopened" {
		t.seeFinding(ev)
		return
	}
	if ev.Agent != t.state.Agent || ev.Run == "" || !Chosen(t.state.Agent, t.state.Canary, t.state.Percent, ev.Run) {
		return
	}
	switch ev.Type {
	case audit.CallIntent:
		t.calls++
	case audit.CallDenied, audit.CallRefused:
		t.calls, t.refused = t.calls+1, t.refused+1
	case audit.CallOutcome:
		if ev.Outcome == nil || ev.Outcome.Status == audit.Cancelled || ev.Outcome.Status == audit.Unknown {
			return // says nothing about the release
		}
		if t.ended++; ev.Outcome.Status != audit.Succeeded {
			t.failed++
		}
	}
}

// seeFinding keeps the first finding that passes the limit: about the agent, one
// of its releases, or a run of the canary.
func (t *trial) seeFinding(ev audit.Event) {
	limit := t.state.Signals.Finding
	kind, name, _ := strings.Cut(ev.Object, "/")
	about := kind == "agent" && name == t.state.Agent || kind == "run" && ev.Agent == t.state.Agent && Chosen(t.state.Agent, t.state.Canary, t.state.Percent, name)
	var d struct{ Finding, Rule, Severity string }
	if limit == "" || !about || t.finding != "" || json.Unmarshal(ev.Detail, &d, json.MatchCaseInsensitiveNames(true)) != nil || d.Rule == RuleRolledBack {
		return
	}
	if slices.Index(findings.Severities, d.Severity) >= slices.Index(findings.Severities, limit) {
		t.finding, t.severity = d.Rule, d.Severity
	}
}

// bad says which limit is passed, in words; empty if none is.
func (t *trial) bad() string {
	s := t.state.Signals
	switch {
	case s == nil:
		return ""
	case t.finding != "":
		return fmt.Sprintf("a finding of %s severity was opened (%s); the limit is %s", t.severity, t.finding, s.Finding)
	case s.Refusals > 0 && t.calls >= s.Least && t.refused*100 > s.Refusals*t.calls:
		return fmt.Sprintf("%d of its %d calls were refused; the limit is %d%%", t.refused, t.calls, s.Refusals)
	case s.Errors > 0 && t.ended >= s.Least && t.failed*100 > s.Errors*t.ended:
		return fmt.Sprintf("%d of its %d calls failed; the limit is %d%%", t.failed, t.ended, s.Errors)
	}
	return ""
}

// giveUp rolls a canary back for what was seen, if it is still the one that was
// judged, with a finding for people.
func (s *Service) giveUp(ctx context.Context, t *trial) error {
	why := t.bad()
	err := s.change(ctx, func(tx *audit.Tx) error {
		st, err := readState(ctx, tx, t.state.Agent)
		if err != nil || st.revision != t.state.revision || st.Canary != t.state.Canary {
			return err // somebody moved it meanwhile
		}
		if _, err := s.rollbackTx(ctx, tx, audit.System, why, st, Back{Agent: st.Agent}); err != nil {
			return err
		}
		return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleRolledBack, Severity: findings.High, Object: "agent/" + t.state.Agent,
			Title:  fmt.Sprintf("release %d of %s rolled itself back: %s", t.state.Canary, t.state.Agent, why),
			Detail: fmt.Sprintf("Release %d is in force again. Look at the canary's calls (countersign log search --agent %s), then countersign release diff %s --from %d.", t.state.Active, t.state.Agent, t.state.Agent, t.state.Canary)})
	})
	if errors.Is(err, ErrRaced) {
		return nil // it was moved while it was judged
	}
	return err
}
