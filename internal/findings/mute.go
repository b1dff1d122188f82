package findings

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// MuteID is the prefix of a mute's identifier.
const MuteID id.Kind = "mut"

// Bounds of mutes.
const (
	longestMute = 366 * 24 * time.Hour // nothing is muted for ever
	mostMutes   = 1000                 // in force
)

// Errors of mutes.
var (
	ErrNoMute    = fault.New(fault.NotFound, "mute_not_found", "there is no such mute, or it has ended")
	ErrMuteWhat  = fault.New(fault.Invalid, "mute_what", "say what to mute: a rule, an object, an agent, or several of them")
	ErrMuteUntil = fault.New(fault.Invalid, "mute_until", "say until when to mute: a time to come, within a year (--until 2027-01-31, or 14d)")
	ErrMutes     = fault.New(fault.Conflict, "too_many_mutes", "a thousand mutes are in force; end some of them first (finding mutes)")
)

// Mute says what nobody wants to hear of until a time: findings of a rule, about
// an object, about an agent; a field that is empty is any. Such findings are made
// and counted as ever, and are listed as muted.
type Mute struct {
	ID      string    `json:"id"`
	Rule    string    `json:"rule,omitempty"`
	Object  string    `json:"object,omitempty"`
	Agent   string    `json:"agent,omitempty"`
	Created time.Time `json:"created"`
	Until   time.Time `json:"until"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
	byID    string
}

// about is the object of a mute's events: what is muted, at its most exact.
func (m Mute) about() string {
	switch {
	case m.Object != "":
		return m.Object
	case m.Agent != "":
		return "agent/" + m.Agent
	}
	return "rule/" + m.Rule
}

// Mute mutes what m says. ID, By and Created are set by the Service; m.Until must
// be within a year.
func (s *Service) Mute(ctx context.Context, by audit.Actor, m Mute, reason string) (Mute, error) {
	reason, err := because(reason)
	now := s.now()
	m.Rule, m.Object, m.Agent = cut(m.Rule, 63), cut(m.Object, 512), cut(m.Agent, 100)
	switch {
	case err != nil:
		return m, err
	case m.Rule == "" && m.Object == "" && m.Agent == "":
		return m, ErrMuteWhat
	case m.Rule != "" && !ruleForm.MatchString(m.Rule):
		return m, ErrMuteWhat.Say("there can be no rule of that name")
	case !m.Until.After(now) || m.Until.Sub(now) > longestMute:
		return m, ErrMuteUntil
	}
	m.ID, m.Created, m.By, m.byID, m.Reason = id.At(MuteID, now), now, by.Name, by.ID, reason
	return m, s.log.Change(ctx, func(tx *audit.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM finding_mutes WHERE until > $1`, storage.Micros(now)).Scan(&n); err != nil {
			return err
		}
		if n >= mostMutes {
			return ErrMutes
		}
		if _, err := tx.Exec(ctx, `INSERT INTO finding_mutes (id, rule, object, agent, created, until, by_id, by_name, reason) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			m.ID, m.Rule, m.Object, m.Agent, storage.Micros(now), storage.Micros(m.Until), by.ID, by.Name, reason); err != nil {
			return err
		}
		tx.Record(muteEvent("finding.muted", by, reason, m))
		return nil
	})
}

// MuteFinding mutes what a finding is about, under its rule, until a time.
func (s *Service) MuteFinding(ctx context.Context, by audit.Actor, finding string, until time.Time, reason string) (Mute, error) {
	f, err := s.Get(ctx, finding)
	switch {
	case err != nil:
		return Mute{}, err
	case f.NotBy != "" && f.NotBy == by.ID:
		return Mute{}, ErrNotYou
	}
	return s.Mute(ctx, by, Mute{Rule: f.Rule, Object: f.Object, Until: until}, reason)
}

// Unmute ends a mute before its time.
func (s *Service) Unmute(ctx context.Context, by audit.Actor, mute, reason string) (Mute, error) {
	reason, err := because(reason)
	if err != nil {
		return Mute{}, err
	}
	var m Mute
	err = s.log.Change(ctx, func(tx *audit.Tx) error {
		found, err := s.readMutes(ctx, tx, ` WHERE id = $1 AND until > $2`, mute, storage.Micros(s.now()))
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return ErrNoMute
		}
		m = found[0]
		m.Until = s.now()
		tx.Record(muteEvent("finding.unmuted", by, reason, m))
		return tx.ExecOne(ctx, `UPDATE finding_mutes SET until = $1 WHERE id = $2`, storage.Micros(m.Until), mute)
	})
	return m, err
}

// UnmuteFinding ends all mutes that mute a finding, and returns them.
func (s *Service) UnmuteFinding(ctx context.Context, by audit.Actor, finding, reason string) ([]Mute, error) {
	f, err := s.Get(ctx, finding)
	if err != nil {
		return nil, err
	}
	all, err := s.Mutes(ctx)
	if err != nil {
		return nil, err
	}
	ended := []Mute{}
	for _, m := range all {
		if (m.Rule == "" || m.Rule == f.Rule) && (m.Object == "" || m.Object == f.Object) && (m.Agent == "" || m.Agent == f.Agent) {
			m, err := s.Unmute(ctx, by, m.ID, reason)
			if err != nil {
				return ended, err
			}
			ended = append(ended, m)
		}
	}
	if len(ended) == 0 {
		return nil, ErrNoMute.Say("the finding is not muted")
	}
	return ended, nil
}

// Mutes returns the mutes in force, the latest first.
func (s *Service) Mutes(ctx context.Context) ([]Mute, error) {
	return s.readMutes(ctx, s.db, ` WHERE until > $1 ORDER BY id DESC LIMIT 1000`, storage.Micros(s.now()))
}

func (s *Service) readMutes(ctx context.Context, q querier, where string, args ...any) ([]Mute, error) {
	rows, err := q.Query(ctx, `SELECT id, rule, object, agent, created, until, by_id, by_name, reason FROM finding_mutes`+where, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []Mute{}
	for rows.Next() {
		var m Mute
		var created, until int64
		if err := rows.Scan(&m.ID, &m.Rule, &m.Object, &m.Agent, &created, &until, &m.byID, &m.By, &m.Reason); err != nil {
			return nil, fmt.Errorf("findings: read a mute: %w", err)
		}
		m.Created, m.Until = storage.Time(created), storage.Time(until)
		out = append(out, m)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func muteEvent(t audit.Type, by audit.Actor, reason string, m Mute) audit.Event {
	detail := map[string]string{"mute": m.ID, "until": m.Until.UTC().Format(time.RFC3339)}
	for name, value := range map[string]string{"rule": m.Rule, "object": m.Object, "agent": m.Agent} {
		if value != "" {
			detail[name] = value
		}
	}
	b, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		b = nil // cannot be: strings made valid by cut
	}
	return audit.Event{Type: t, Actor: by, Object: m.about(), Reason: reason, Detail: b}
}
