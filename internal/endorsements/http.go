package endorsements

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/rest"
)

type listRequest struct {
	Name string `path:"name" maxLength:"63"`
	Kind string `query:"kind" enum:"counterparty,scope,stated," doc:"all if empty"`
	Run  string `query:"run" maxLength:"64"`
}

type revokeRequest struct {
	Name   string `path:"name" maxLength:"63"`
	ID     string `path:"id" maxLength:"64"`
	Reason string `query:"reason" doc:"needed, here or in the header"`
}

type scopeRequest struct {
	Run  string `path:"run" maxLength:"64"`
	Body struct {
		Scopes []flow.Scope `json:"scopes" doc:"tools, each with values of its arguments that matter; * stands for a part of one word"`
		Reason string       `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type stateRequest struct {
	Run  string `path:"run" maxLength:"64"`
	Body struct {
		Statement
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type stateOf struct {
	Run string `path:"run" maxLength:"64"`
	ID  string `path:"id" maxLength:"64"`
}

type extendRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

func person(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

func reasonOf(c rest.Caller, given string) string {
	if given != "" {
		return given
	}
	return c.Reason
}

// Routes declares the room's operations. Owner is for those of an agent: who they
// are about is personal.
func (s *Service) Routes(api *rest.API) {
	const tag = "endorsements"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/agents/{name}/endorsements", Summary: "List what people endorsed beforehand for an agent", Tag: tag, Need: rest.Own, Of: "agent/{name}"},
		func(ctx context.Context, _ rest.Caller, r *listRequest) (*[]Endorsement, error) {
			found, err := s.List(ctx, r.Name, r.Kind, r.Run)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: "/api/v1/agents/{name}/endorsements/{id}", Summary: "Revoke one", Tag: tag, Need: rest.Own, Of: "agent/{name}"},
		func(ctx context.Context, c rest.Caller, r *revokeRequest) (*Endorsement, error) {
			e, err := s.Revoke(ctx, person(c), reasonOf(c, r.Reason), r.Name, r.ID)
			return &e, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/runs/{run}/scope", Summary: "Say what a run may do", Tag: tag, Need: rest.Own, Of: "run/{run}", Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *scopeRequest) (*[]Endorsement, error) {
			made, err := s.Allow(ctx, person(c), reasonOf(c, r.Body.Reason), r.Run, r.Body.Scopes)
			return &made, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/runs/{run}/scope-requests", Summary: "State the scope of a run and ask people to approve it", Tag: tag, Need: rest.Own, Of: "run/{run}", Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *stateRequest) (*Asked, error) {
			who := Asker{Actor: person(c), Run: r.Run, Origin: approvals.Origin{Credential: c.Credential, Kind: "user", Remote: c.Remote, Front: Front}}
			a, err := s.Ask(ctx, who, reasonOf(c, r.Body.Reason), r.Body.Statement)
			return &a, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/runs/{run}/scope-requests/{id}", Summary: "Show how a stated scope stands", Tag: tag, Need: rest.Own, Of: "run/{run}"},
		func(ctx context.Context, _ rest.Caller, r *stateOf) (*Asked, error) {
			a, err := s.asked(ctx, r.ID, func(x approvals.Request) bool { return x.Run == r.Run })
			return &a, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/approvals/{id}/run", Summary: "Extend your approval to the rest of the run", Tag: tag, Need: rest.Decide, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *extendRequest) (*[]Endorsement, error) {
			if c.Program {
				return nil, approvals.ErrProgram
			}
			made, err := s.Extend(ctx, person(c), reasonOf(c, r.Body.Reason), r.ID)
			return &made, err
		})
}
