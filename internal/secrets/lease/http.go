package lease

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/secrets"
)

// Ended says how many leases were ended.
type Ended struct {
	Ended int `json:"ended"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/leases", Summary: "List leases that have not been seen to be dead", Tag: "secrets"}, s.httpList)
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: "/api/v1/leases/{id}", Summary: "End a lease before its time", Tag: "secrets", Need: rest.Write, Status: http.StatusOK}, s.httpEnd)
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/secrets/{name}/revoke", Summary: "End all leases of a secret before their time", Tag: "secrets", Need: rest.Write}, s.httpRevoke)
}

func (s *Service) httpList(ctx context.Context, _ rest.Caller, r *struct {
	Secret     string `query:"secret"`
	Agent      string `query:"agent"`
	Connection string `query:"connection"`
}) (*[]Lease, error) {
	all, err := s.List(ctx, Which{Secret: r.Secret, Agent: r.Agent, Connection: r.Connection})
	if err != nil {
		return nil, err
	}
	return &all, nil
}

func (s *Service) httpEnd(ctx context.Context, c rest.Caller, r *struct {
	ID string `path:"id"`
}) (*Ended, error) {
	n, err := s.End(ctx, audit.Person(c.ID, c.Name), c.Reason, Which{ID: r.ID})
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &Ended{n}, nil
}

func (s *Service) httpRevoke(ctx context.Context, c rest.Caller, r *struct {
	Name string `path:"name"`
}) (*Ended, error) {
	if _, ok := s.Secrets.Secret(r.Name); !ok {
		return nil, secrets.ErrNotFound.Say("there is no secret %.63q", r.Name)
	}
	n, err := s.End(ctx, audit.Person(c.ID, c.Name), c.Reason, Which{Secret: r.Name})
	if err != nil {
		return nil, err
	}
	return &Ended{n}, nil
}
