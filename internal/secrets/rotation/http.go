package rotation

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type byName struct {
	Name string `path:"name"`
}

const shownRotations = 50

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/secrets/{name}/rotate", Summary: "Begin to rotate a secret, or hasten its rotation", Tag: "secrets", Need: rest.Write, Status: http.StatusAccepted}, s.httpRotate)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/secrets/{name}/rotations", Summary: "List the last rotations of a secret", Tag: "secrets"}, s.httpRotations)
}

func (s *Service) httpRotate(ctx context.Context, c rest.Caller, r *struct {
	Name string `path:"name"`
	Body struct {
		Leaked bool `json:"leaked,omitempty" doc:"the value is known to others: retire it at once"`
	}
}) (*Rotation, error) {
	rot, err := s.Rotate(ctx, audit.Person(c.ID, c.Name), c.Reason, r.Name, r.Body.Leaked)
	if err != nil {
		return nil, err
	}
	return &rot, nil
}

func (s *Service) httpRotations(ctx context.Context, _ rest.Caller, r *byName) (*[]Rotation, error) {
	all, err := s.Rotations(ctx, r.Name, shownRotations)
	if err != nil {
		return nil, err
	}
	return &all, nil
}
