package findings

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type listRequest struct {
	Status   string `query:"status" enum:"open,closed" doc:"all if empty"`
	Rule     string `query:"rule"`
	Severity string `query:"severity" enum:"info,low,medium,high,critical"`
	Object   string `query:"object"`
	Before   string `query:"before" doc:"the id of the last finding of the page before"`
	Limit    int    `query:"limit" minimum:"0" maximum:"1000" doc:"100 if empty"`
}

type showRequest struct {
	ID string `path:"id" maxLength:"64"`
}

type closeRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const path, tag = "/api/v1/findings", "findings"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List findings, newest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *listRequest) (*[]Finding, error) {
			found, err := s.List(ctx, Query{Status: r.Status, Rule: r.Rule, Severity: r.Severity, Object: r.Object, Before: r.Before, Limit: r.Limit})
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{id}", Summary: "Show a finding", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *showRequest) (*Finding, error) {
			f, err := s.Get(ctx, r.ID)
			return &f, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/close", Summary: "Close a finding", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *closeRequest) (*Finding, error) {
			reason := r.Body.Reason
			if reason == "" {
				reason = c.Reason
			}
			if err := s.Close(ctx, audit.Person(c.ID, c.Name), r.ID, reason); err != nil {
				return nil, err
			}
			f, err := s.Get(ctx, r.ID)
			return &f, err
		})
}
