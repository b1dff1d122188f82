package identity

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/rest"
)

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	s.agentRoutes(api)
	s.credentialRoutes(api)
	s.sessionRoutes(api)
	s.peopleRoutes(api)
}

// created is the status of an answer that holds something new.
const created = http.StatusCreated

func actor(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

// reasonOf prefers the reason in the body to the one in the header.
func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

// duration reads "12h", "90m" or "30d"; empty is zero.
func duration(field, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var whole int
		if whole, err = strconv.Atoi(n); err == nil && whole > 3650 {
			whole = 3650
		}
		d = time.Duration(whole) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, ErrInvalid.Say("%s must be a duration such as 12h or 30d", field)
	}
	return d, nil
}

type byName struct {
	Name string `path:"name" maxLength:"63"`
}

type withReason struct {
	Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
}

type reasoned struct {
	Name string `path:"name" maxLength:"63"`
	Body withReason
}

type deletion struct {
	Name   string `path:"name" maxLength:"63"`
	Reason string `query:"reason" doc:"why; else the header X-Countersign-Reason"`
}

// agentRow is an agent as the API shows it.
type agentRow struct {
	Agent
	Status string   `json:"status" enum:"active,leaving,suspended,no_owner,locked,decommissioned" doc:"whether it may make calls, and if not, why"`
	Keys   []keyRow `json:"keys" doc:"keys that are valid now"`
}

type keyRow struct {
	ID        string    `json:"id"`
	Agent     string    `json:"agent"`
	Prefix    string    `json:"prefix" doc:"the first characters of the key, to recognise it by"`
	Status    string    `json:"status" enum:"active,rotating,expired,revoked"`
	Created   time.Time `json:"created"`
	Age       int64     `json:"age_seconds"`
	Expires   time.Time `json:"expires"`
	LastUsed  time.Time `json:"last_used,omitzero"`
	Revoked   time.Time `json:"revoked,omitzero"`
	Successor string    `json:"successor,omitempty" doc:"the key that a rotation put in its place"`
}

func (s *Service) keyRow(k Key) keyRow {
	now := s.now()
	return keyRow{ID: k.ID, Agent: k.Agent, Prefix: k.Prefix, Status: k.Status(now), Created: k.Created, Age: int64(now.Sub(k.Created) / time.Second),
		Expires: k.Expires, LastUsed: k.LastUsed, Revoked: k.Revoked, Successor: k.Successor}
}

func keyRows(s *Service, keys []Key) []keyRow {
	rows := make([]keyRow, 0, len(keys))
	for _, k := range keys {
		rows = append(rows, s.keyRow(k))
	}
	return rows
}

// agentRows reads the store rather than the view: listings show last use.
func (s *Service) agentRows(ctx context.Context, name string) ([]agentRow, error) {
	agents, err := readAgents(ctx, s.db, name)
	if err != nil {
		return nil, err
	}
	users, err := readUsers(ctx, s.db, "")
	if err != nil {
		return nil, err
	}
	keys, err := readKeys(ctx, s.db, keyFilter{agent: name, after: s.now()})
	if err != nil {
		return nil, err
	}
	active, live := map[string]bool{}, map[string][]Key{}
	for _, u := range users {
		active[u.Name] = !u.Disabled
	}
	for _, k := range keys {
		if k.Revoked.IsZero() {
			live[k.Agent] = append(live[k.Agent], k)
		}
	}
	rows := make([]agentRow, 0, len(agents))
	for _, a := range agents {
		r := agentRow{Agent: a, Status: "active", Keys: keyRows(s, live[a.Name])}
		switch {
		case !a.Retired.IsZero():
			r.Status = "decommissioned"
		case a.Suspended:
			r.Status = "suspended"
		case !active[a.Owner] && s.acting(a):
			r.Status = "leaving" // its backup answers for it, for a while
		case !active[a.Owner]:
			r.Status = "no_owner"
		case errors.Is(s.locks.Check(Caller{Agent: a}.Subject()), locks.ErrLocked):
			r.Status = "locked"
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func (s *Service) agentRow(ctx context.Context, name string) (*agentRow, error) {
	if name == "" {
		return nil, ErrNotFound
	}
	rows, err := s.agentRows(ctx, name)
	r, err := one(rows, err, "agent", name)
	return &r, err
}

type putAgent struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Owner           string            `json:"owner"`
		Backup          string            `json:"backup,omitempty"`
		Team            string            `json:"team,omitempty"`
		Purpose         string            `json:"purpose,omitempty"`
		BusinessProcess string            `json:"business_process,omitempty"`
		Stage           string            `json:"stage" enum:"development,staging,production"`
		Labels          map[string]string `json:"labels,omitempty"`
		Reason          string            `json:"reason,omitempty" doc:"needed when the owner changes"`
	}
}

type setOwner struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Owner  string `json:"owner"`
		Backup string `json:"backup,omitempty" doc:"unchanged if empty"`
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

func (s *Service) agentRoutes(api *rest.API) {
	const path, tag = "/api/v1/agents", "identity"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List agents", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]agentRow, error) {
			rows, err := s.agentRows(ctx, "")
			return &rows, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{name}", Summary: "Show an agent", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*agentRow, error) { return s.agentRow(ctx, r.Name) })
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: path + "/{name}", Summary: "Create or update an agent", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *putAgent) (*agentRow, error) {
			b := r.Body
			a := Agent{Name: r.Name, Owner: b.Owner, Backup: b.Backup, Team: b.Team, Purpose: b.Purpose, BusinessProcess: b.BusinessProcess, Stage: b.Stage, Labels: b.Labels}
			if _, err := s.PutAgent(ctx, actor(c), reasonOf(c, b.Reason), a); err != nil {
				return nil, err
			}
			return s.agentRow(ctx, r.Name)
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{name}", Summary: "Delete an agent and its credentials", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *deletion) (*rest.None, error) {
			return nil, s.DeleteAgent(ctx, actor(c), reasonOf(c, r.Reason), r.Name)
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{name}/owner", Summary: "Give an agent another owner", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *setOwner) (*agentRow, error) {
			if _, err := s.SetOwner(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Name, r.Body.Owner, r.Body.Backup); err != nil {
				return nil, err
			}
			return s.agentRow(ctx, r.Name)
		})
	s.stopRoute(api, rest.Op{Path: "suspend", Summary: "Stop an agent from making calls", Need: rest.Own, Of: ofAgent}, s.Suspend)
	s.stopRoute(api, rest.Op{Path: "resume", Summary: "Let a suspended agent make calls again", Need: rest.Write}, s.Resume)
}

// ofAgent marks operations on an agent for its owner.
const ofAgent = "agent/{name}"

func (s *Service) stopRoute(api *rest.API, op rest.Op, do func(context.Context, audit.Actor, string, string) (bool, error)) {
	op.Method, op.Path, op.Tag = http.MethodPost, "/api/v1/agents/{name}/"+op.Path, "identity"
	rest.Handle(api, op,
		func(ctx context.Context, c rest.Caller, r *reasoned) (*agentRow, error) {
			if _, err := do(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Name); err != nil {
				return nil, err
			}
			return s.agentRow(ctx, r.Name)
		})
}

type issueKey struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		ExpiresIn string `json:"expires_in,omitempty" doc:"such as 12h or 30d; 30d if empty, at most 90d"`
		Reason    string `json:"reason,omitempty"`
	}
}

type rotateKey struct {
	Name string `path:"name" maxLength:"63"`
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		ExpiresIn string `json:"expires_in,omitempty" doc:"of the new key; 30d if empty, at most 90d"`
		Overlap   string `json:"overlap,omitempty" doc:"how long the old key lives on; 24h if empty, at most 7d, 0 ends it now"`
		Reason    string `json:"reason,omitempty"`
	}
}

type revokeKey struct {
	Name   string `path:"name" maxLength:"63"`
	ID     string `path:"id" maxLength:"64"`
	Reason string `query:"reason" doc:"why; else the header X-Countersign-Reason"`
}

// issuedKey is the one answer that holds a key.
type issuedKey struct {
	keyRow
	Key string `json:"key" doc:"the key itself, shown this once"`
}

type startedRun struct {
	Token   string    `json:"token" doc:"the credential, shown this once"`
	Run     string    `json:"run"`
	Agent   string    `json:"agent"`
	Expires time.Time `json:"expires"`
}

type endRun struct {
	Run  string `path:"run" maxLength:"64"`
	Body withReason
}

// ownKey refuses the identifier of another agent's key.
func (s *Service) ownKey(ctx context.Context, agent, id string) error {
	k, err := readKey(ctx, s.db, id)
	if err == nil && k.Agent != agent {
		return ErrNotFound.Say("agent %q has no key %q", agent, id)
	}
	return err
}

func (s *Service) rotate(ctx context.Context, c rest.Caller, r *rotateKey) (*issuedKey, error) {
	life, err := duration("expires_in", r.Body.ExpiresIn)
	if err != nil {
		return nil, err
	}
	overlap := NoOverlap
	if o := r.Body.Overlap; o != "0" && o != "0s" {
		if overlap, err = duration("overlap", o); err != nil {
			return nil, err
		}
	}
	if err := s.ownKey(ctx, r.Name, r.ID); err != nil {
		return nil, err
	}
	k, value, err := s.RotateKey(ctx, actor(c), reasonOf(c, r.Body.Reason), r.ID, overlap, life)
	return &issuedKey{s.keyRow(k), value}, err
}

func (s *Service) credentialRoutes(api *rest.API) {
	const path, tag = "/api/v1/agents/{name}", "identity"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/keys", Summary: "List an agent's keys, dead ones included", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*[]keyRow, error) {
			keys, err := s.Keys(ctx, r.Name)
			rows := keyRows(s, keys)
			return &rows, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/keys", Summary: "Issue a key", Tag: tag, Need: rest.Own, Of: ofAgent, Status: created},
		func(ctx context.Context, c rest.Caller, r *issueKey) (*issuedKey, error) {
			life, err := duration("expires_in", r.Body.ExpiresIn)
			if err != nil {
				return nil, err
			}
			k, value, err := s.IssueKey(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Name, life)
			return &issuedKey{s.keyRow(k), value}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/keys/{id}/rotate", Summary: "Put a new key in the place of one", Tag: tag, Need: rest.Own, Of: ofAgent, Status: created}, s.rotate)
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/keys/{id}", Summary: "Revoke a key at once", Tag: tag, Need: rest.Own, Of: ofAgent},
		func(ctx context.Context, c rest.Caller, r *revokeKey) (*rest.None, error) {
			if err := s.ownKey(ctx, r.Name, r.ID); err != nil {
				return nil, err
			}
			return nil, s.RevokeKey(ctx, actor(c), reasonOf(c, r.Reason), r.ID)
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/runs", Summary: "Start a run with a credential of its own", Tag: tag, Need: rest.Own, Of: ofAgent, Status: created},
		func(ctx context.Context, c rest.Caller, r *issueKey) (*startedRun, error) {
			life, err := duration("expires_in", r.Body.ExpiresIn)
			if err != nil {
				return nil, err
			}
			run, token, err := s.StartRun(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Name, life)
			return &startedRun{Token: token, Run: run.ID, Agent: run.Agent, Expires: run.Expires}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/runs/{run}/end", Summary: "End a run and revoke its credential", Tag: tag, Need: rest.Own, Of: "run/{run}"},
		func(ctx context.Context, c rest.Caller, r *endRun) (*rest.None, error) {
			return nil, s.EndRun(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Run)
		})
}
