package endorsements

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Options of a Service. Derive must be set.
type Options struct {
	Derive func(label string) []byte // 32 bytes for a label
	// Roles returns the roles of a tool's arguments, and whether there is the tool.
	Roles func(connection, tool string) (map[string]string, bool)
	// Run returns the agent of a run that was started with a token of its own, and
	// until when it lasts.
	Run func(ctx context.Context, run string) (agent, agentID string, expires time.Time, err error)
	// Approval returns a held call.
	Approval func(ctx context.Context, id string) (approvals.Request, error)
	// Asks is where scopes that are stated wait for people; nil: none can be.
	Asks   Asks
	Now    func() time.Time
	Logger *slog.Logger
}

// Service is the room's verbs. It is safe for concurrent use.
type Service struct {
	db   *storage.DB
	log  *audit.Log
	o    Options
	aead cipher.AEAD
	mac  []byte
}

// New returns a service that keeps its endorsements in db.
func New(db *storage.DB, log *audit.Log, o Options) (*Service, error) {
	if o.Derive == nil {
		return nil, errors.New("endorsements: Derive is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	block, err := aes.NewCipher(o.Derive("endorsements/seal/v1"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Service{db: db, log: log, o: o, aead: aead, mac: o.Derive("endorsements/find/v1")}, nil
}

// digestOf is what a counterparty is found by.
func (s *Service) digestOf(t Tool, arg, value string) string {
	h := hmac.New(sha256.New, s.mac)
	for _, part := range []string{t.AgentID, t.Connection, t.Target, t.Name, arg, flow.Same(value)} {
		h.Write([]byte(hex.EncodeToString([]byte(part)) + "\n")) // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Given returns what people gave beforehand for a call of the tool in which
// nothing else endorses some values: those of counterparty, the argument that
// names one, are looked up.
func (s *Service) Given(ctx context.Context, t Tool, counterparty string, values []string) (flow.Given, error) {
	now, g := storage.Micros(s.o.Now()), flow.Given{}
	if counterparty != "" && len(values) > 0 {
		met := map[string]bool{}
		for _, v := range values {
			found, err := s.read(ctx, s.db, ` WHERE digest = $1 AND kind = $2 AND ended = 0 AND expires > $3`, s.digestOf(t, counterparty, v), Counterparty, now)
			if err != nil {
				return g, err
			}
			met[v] = slices.ContainsFunc(found, func(e Endorsement) bool { return flow.Same(e.Value) == flow.Same(v) })
		}
		g.Met = func(value string) bool { return met[value] }
	}
	found, err := s.read(ctx, s.db, ` WHERE run = $1 AND kind = $2 AND connection = $3 AND tool = $4 AND ended = 0 AND expires > $5`, t.Run, RunScope, t.Connection, t.Name, now)
	if err != nil || t.Run == "" {
		return g, err
	}
	for _, e := range found {
		if e.Scope != nil && e.agentID == t.AgentID {
			g.Scopes = append(g.Scopes, *e.Scope)
		}
	}
	return g, nil
}

// Held keeps what a held call would do, so that who approves it can do so for
// the rest of its run. Values that nothing names cannot be approved beforehand.
func (s *Service) Held(ctx context.Context, t Tool, approval string, values []flow.Value) error {
	scope := flow.Scope{Tool: t.Connection + "/" + t.Name, Args: map[string][]string{}}
	for _, v := range values {
		if v.Role == flow.Secret || v.Value == "" || strings.Contains(v.Value, "*") {
			return nil
		}
		if !slices.Contains(scope.Args[v.Arg], v.Value) {
			scope.Args[v.Arg] = append(scope.Args[v.Arg], v.Value)
		}
	}
	if approval == "" || t.Run == "" || len(scope.Args) == 0 {
		return nil
	}
	now := s.o.Now()
	e := Endorsement{ID: id.At(kind, now), Kind: held, Agent: t.Agent, agentID: t.AgentID, Run: t.Run, Connection: t.Connection, Tool: t.Name, Scope: &scope,
		Approval: approval, People: []string{}, Created: now, Expires: now.Add(keepHeld)}
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM endorsements WHERE approval = $1 AND kind = $2`, approval, held); err != nil {
			return err
		}
		return s.insert(ctx, tx, e)
	})
}

// Met records, when a call that people approved has succeeded, whom they came to
// know by it.
func (s *Service) Met(ctx context.Context, t Tool, arg string, values []string, r approvals.Request, life time.Duration) error {
	people := r.Approvers()
	if len(people) == 0 || r.Override { // a broken glass is for one call
		return nil
	}
	slices.Sort(values)
	values = slices.Compact(values)
	now := s.o.Now()
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		if err := s.sweep(ctx, tx, now); err != nil {
			return err
		}
		var made []string
		for _, v := range values[:min(len(values), mostMet)] {
			e := Endorsement{ID: id.At(kind, now), Kind: Counterparty, Agent: t.Agent, agentID: t.AgentID, Run: t.Run, Connection: t.Connection, Tool: t.Name,
				Arg: arg, Value: v, Approval: r.ID, People: people, Created: now, Expires: now.Add(life), digest: s.digestOf(t, arg, v)}
			if _, err := tx.Exec(ctx, `DELETE FROM endorsements WHERE digest = $1 AND kind = $2 AND ended = 0`, e.digest, Counterparty); err != nil {
				return err
			}
			if err := s.insert(ctx, tx, e); err != nil {
				return err
			}
			made = append(made, e.ID)
		}
		tx.Record(s.event("counterparty.accepted", audit.System, "approved by "+strings.Join(people, " and "), Endorsement{ID: r.ID, Agent: t.Agent, Run: t.Run, Connection: t.Connection, Tool: t.Name},
			map[string]any{"argument": arg, "endorsements": made, "approval": r.ID, "expires": now.Add(life)}))
		return nil
	})
}

// sweep removes what ended long ago, and what nobody approved.
func (s *Service) sweep(ctx context.Context, tx executor, now time.Time) error {
	_, err := tx.Exec(ctx, `DELETE FROM endorsements WHERE expires < $1 OR (kind = $2 AND expires < $3)`, storage.Micros(now.Add(-keepEnded)), held, storage.Micros(now))
	return err
}

// Revoke ends an endorsement of an agent. Needs a reason.
func (s *Service) Revoke(ctx context.Context, by audit.Actor, reason, agent, ref string) (out Endorsement, err error) {
	if err := checkReason(reason); err != nil {
		return out, err
	}
	err = s.log.Change(ctx, func(tx *audit.Tx) error {
		found, err := s.read(ctx, tx, ` WHERE id = $1 AND agent = $2 AND kind <> $3`, ref, agent, held)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return ErrNotFound
		}
		if out = found[0]; !out.Ended.IsZero() {
			return nil
		}
		out.Ended, out.EndedBy = s.o.Now(), by.Name
		if _, err := tx.Exec(ctx, `UPDATE endorsements SET ended = $1, ended_by = $2 WHERE id = $3`, storage.Micros(out.Ended), by.Name, out.ID); err != nil {
			return err
		}
		t := audit.Type("counterparty.revoked")
		if out.Kind != Counterparty {
			t = "run.scope_revoked"
		}
		tx.Record(s.event(t, by, reason, out, nil))
		return nil
	})
	return out, err
}

// List returns the endorsements of an agent, newest first: those of one kind and
// run, if given.
func (s *Service) List(ctx context.Context, agent, only, run string) ([]Endorsement, error) {
	return s.read(ctx, s.db, ` WHERE agent = $1 AND kind <> $2 AND ($3 = '' OR kind = $3) AND ($4 = '' OR run = $4) ORDER BY id DESC LIMIT 1000`, agent, held, only, run)
}

func (s *Service) event(t audit.Type, by audit.Actor, reason string, e Endorsement, detail map[string]any) audit.Event {
	ev := audit.Event{Type: t, Actor: by, Reason: reason, Object: "endorsement/" + e.ID, Agent: e.Agent, Run: e.Run, Connection: e.Connection, Tool: e.Tool}
	if b, err := json.Marshal(detail, json.Deterministic(true)); err == nil && detail != nil {
		ev.Detail = b
	}
	return ev
}

func checkReason(reason string) error {
	if n := utf8.RuneCountInString(strings.TrimSpace(reason)); n == 0 || n > 1000 || !utf8.ValidString(reason) {
		return ErrReason
	}
	return nil
}
