package locks

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// State is a lock and how far it is in force.
type State struct {
	Lock
	Acks   []Ack    `json:"acks" doc:"replicas on which nothing that the lock covers is at work any more"`
	Silent []string `json:"silent" doc:"replicas that were there when it was placed and have not said so"`
	Cut    int      `json:"cut" doc:"calls in flight and leases that were ended, on all replicas"`
	Millis float64  `json:"millis" doc:"from the lock to the last of them, by the database's clock; as far as acknowledged"`
}

// State returns how far a lock is in force.
func (s *Service) State(ctx context.Context, lock string) (State, error) {
	l, err := readLock(ctx, s.db, lock)
	if err != nil {
		return State{}, err
	}
	st := State{Lock: l}
	if st.Silent, err = silent(ctx, s.db, l); err != nil { // before the acks: one that comes in between is in both, not in neither
		return State{}, err
	}
	if st.Acks, err = readAcks(ctx, s.db, l.ID); err != nil {
		return State{}, err
	}
	for _, a := range st.Acks {
		st.Silent = slices.DeleteFunc(st.Silent, func(r string) bool { return r == a.Replica })
		st.Cut += a.Cut
		st.Millis = max(st.Millis, float64(a.At.Sub(l.Placed).Microseconds())/1000)
	}
	return st, nil
}

type byID struct {
	ID string `path:"id" maxLength:"64"`
}

type listRequest struct {
	All bool `query:"all" doc:"those that have ended too"`
}

type addRequest struct {
	Body struct {
		Kind      string `json:"kind" enum:"agent,owner,team,tool,connection,credential,run,everything"`
		Name      string `json:"name,omitempty" maxLength:"256" doc:"of what is stopped; a tool is CONNECTION/TOOL"`
		ExpiresIn string `json:"expires_in,omitempty" doc:"such as 2h or 7d; until it is lifted if empty"`
		Reason    string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type agentRequest struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		ExpiresIn string `json:"expires_in,omitempty" doc:"such as 2h or 7d; until it is lifted if empty"`
		Reason    string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type liftRequest struct {
	ID     string `path:"id" maxLength:"64"`
	Reason string `query:"reason" doc:"needed, here or in the header"`
}

func person(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

// duration reads "2h", "90m" or "7d"; empty is zero.
func duration(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var whole int
		whole, err = strconv.Atoi(n)
		d = time.Duration(min(whole, 3650)) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, ErrInvalid.Say("expires_in must be a duration such as 2h or 7d")
	}
	return d, nil
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const path, tag = "/api/v1/locks", "locks"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List locks, the latest last", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *listRequest) (*[]Lock, error) {
			found, err := readLocks(ctx, s.db, ` WHERE $1 OR ended = 0 ORDER BY id`, r.All)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{id}", Summary: "Show a lock, and on which replicas it has cut what it covers", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byID) (*State, error) {
			st, err := s.State(ctx, r.ID)
			return &st, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path, Summary: "Stop something at once", Tag: tag, Need: rest.Stop, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *addRequest) (*State, error) {
			return s.httpAdd(ctx, c, Lock{Kind: r.Body.Kind, Name: r.Body.Name, Reason: reasonOf(c, r.Body.Reason)}, r.Body.ExpiresIn)
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{id}", Summary: "Lift a lock", Tag: tag, Need: rest.Own, Of: "lock/{id}"},
		func(ctx context.Context, c rest.Caller, r *liftRequest) (*Lock, error) {
			l, err := s.Lift(ctx, person(c), reasonOf(c, r.Reason), r.ID)
			return &l, err
		})
	const agent = "/api/v1/agents/{name}"
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: agent + "/lock", Summary: "Stop an agent at once", Tag: tag, Need: rest.Own, Of: "agent/{name}", Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *agentRequest) (*State, error) {
			return s.httpAdd(ctx, c, Lock{Kind: Agent, Name: r.Name, Reason: reasonOf(c, r.Body.Reason)}, r.Body.ExpiresIn)
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: agent + "/unlock", Summary: "Lift every lock on an agent", Tag: tag, Need: rest.Own, Of: "agent/{name}"},
		func(ctx context.Context, c rest.Caller, r *agentRequest) (*[]Lock, error) {
			lifted, err := s.LiftAll(ctx, person(c), reasonOf(c, r.Body.Reason), Agent, r.Name, func(l Lock) error { return mayLift(c, l) })
			if lifted == nil {
				lifted = []Lock{}
			}
			return &lifted, err
		})
}

// mayLift refuses an owner to lift what somebody else placed.
func mayLift(c rest.Caller, l Lock) error {
	if c.May(rest.Stop) || l.By == c.Name {
		return nil
	}
	return rest.ErrNotOwner.Say("the lock %s was placed by %s; ask them or an operator to lift it", l.ID, l.By)
}

func (s *Service) httpAdd(ctx context.Context, c rest.Caller, l Lock, expiresIn string) (*State, error) {
	life, err := duration(expiresIn)
	if err != nil {
		return nil, err
	}
	if l, err = s.Add(ctx, person(c), l, life); err != nil {
		return nil, err
	}
	st, err := s.State(ctx, l.ID)
	return &st, err
}

// LiftableBy reports whether the person called user may lift a lock without
// the right to lift any: they placed it, and it is on an agent that owns says
// is theirs.
func (s *Service) LiftableBy(ctx context.Context, user, lock string, owns rest.Owns) (bool, error) {
	l, err := readLock(ctx, s.db, lock)
	if err != nil || l.Kind != Agent || l.By != user {
		return false, err
	}
	return owns(ctx, user, "agent/"+l.Name)
}
