package inventory

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type byName struct {
	Name string `path:"name" maxLength:"63"`
}

type byID struct {
	ID string `path:"id" maxLength:"64"`
}

type listDifference struct {
	Kind  string `query:"kind" enum:"agent,caller,connection,tool,model,secret,network,host"`
	State string `query:"state" enum:"unregistered,unobserved"`
	Open  bool   `query:"open" doc:"without what is set aside"`
}

type asideRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Until  time.Time `json:"until" doc:"within a year"`
		Reason string    `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

type backRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

// only keeps the entries that were asked for.
func (r *listDifference) only(d *Difference) {
	d.Entries = slices.DeleteFunc(d.Entries, func(e Entry) bool {
		return r.Kind != "" && e.Kind != r.Kind || r.State != "" && e.State != r.State || r.Open && e.Aside != nil
	})
}

func (s *Service) differenceRoutes(api *rest.API, tag string) {
	const path = "/api/v1/inventory/diff"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "Compare what is registered with what was observed", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *listDifference) (*Difference, error) {
			d, err := s.Difference(ctx)
			r.only(&d)
			return &d, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{id}", Summary: "Show an entry of the difference", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byID) (*Entry, error) {
			e, err := s.Entry(ctx, r.ID)
			return &e, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/set-aside", Summary: "Set an entry of the difference aside until a time", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *asideRequest) (*Entry, error) {
			e, err := s.SetAside(ctx, audit.Person(c.ID, c.Name), cmp.Or(r.Body.Reason, c.Reason), r.ID, r.Body.Until)
			return &e, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/take-back", Summary: "End that an entry is set aside", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *backRequest) (*Entry, error) {
			e, err := s.TakeBack(ctx, audit.Person(c.ID, c.Name), cmp.Or(r.Body.Reason, c.Reason), r.ID)
			return &e, err
		})
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const tag = "inventory"
	s.differenceRoutes(api, tag)
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
