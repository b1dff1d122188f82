package undo

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type planRequest struct {
	Body struct {
		Call string `json:"call,omitempty" maxLength:"64"`
		Run  string `json:"run,omitempty" maxLength:"64"`
		As   string `json:"as,omitempty" maxLength:"63" doc:"the agent in whose name it is undone; the one that made the call if left out"`
	}
}

type beginRequest struct {
	Body struct {
		Call   string `json:"call,omitempty" maxLength:"64"`
		Run    string `json:"run,omitempty" maxLength:"64"`
		As     string `json:"as,omitempty" maxLength:"63" doc:"the agent in whose name it is undone; the one that made the call if left out"`
		Digest string `json:"digest" maxLength:"64" doc:"of the plan that you looked at"`
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type byID struct {
	ID string `path:"id" maxLength:"64"`
}

type settleRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Done   []int  `json:"done,omitempty" maxItems:"1000" doc:"steps that were done, as you found out"`
		Again  []int  `json:"again,omitempty" maxItems:"1000" doc:"steps to make again"`
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const path, tag = "/api/v1/undos", "undo"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List what was undone, the latest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Undo, error) {
			found, err := readUndos(ctx, s.o.DB, ` ORDER BY id DESC LIMIT 200`)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{id}", Summary: "Show an undo and its steps", Tag: tag, Need: rest.Inspect},
		func(ctx context.Context, _ rest.Caller, r *byID) (*Undo, error) {
			u, err := s.Get(ctx, r.ID)
			return &u, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/plan", Summary: "Plan how a call or a run is undone, and change nothing", Tag: tag, Need: rest.Write},
		func(ctx context.Context, _ rest.Caller, r *planRequest) (*Plan, error) {
			p, err := s.Plan(ctx, r.Body.Call, r.Body.Run, r.Body.As)
			return &p, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path, Summary: "Carry out a plan", Tag: tag, Need: rest.Write, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *beginRequest) (*Undo, error) {
			q := r.Body
			u, err := s.Begin(ctx, audit.Person(c.ID, c.Name), reasonOf(c, q.Reason), q.Call, q.Run, q.As, q.Digest)
			return &u, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/settle", Summary: "Say what became of steps that failed or are unknown, and go on", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *settleRequest) (*Undo, error) {
			u, err := s.Settle(ctx, audit.Person(c.ID, c.Name), reasonOf(c, r.Body.Reason), r.ID, r.Body.Done, r.Body.Again)
			return &u, err
		})
}
