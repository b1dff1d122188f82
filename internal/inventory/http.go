package inventory

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/rest"
)

type byName struct {
	Name string `path:"name" maxLength:"63"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const tag = "inventory"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/inventory", Summary: "List agents, connections and secrets with age, last use, reach and findings", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*Listing, error) {
			l, err := s.List(ctx)
			return &l, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/agents/{name}/reach", Summary: "Show what an agent may touch", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*Tree, error) {
			t, err := s.Tree(ctx, r.Name)
			return &t, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/inventory/unregistered", Summary: "List who calls and is not registered", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Stranger, error) {
			all, err := s.Strangers(ctx)
			return &all, err
		})
}
