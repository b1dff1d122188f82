package backup

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type createRequest struct {
	Body struct {
		Recipients []string `json:"recipients" minItems:"1" maxItems:"32" doc:"age recipients (age1…) who can open it"`
		Reason     string   `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

type resumeRequest struct {
	Body struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const path, tag = "/api/v1/backups", "backup"
	rest.HandleStream(api, rest.Op{Method: http.MethodPost, Path: path, Summary: "Take a backup, encrypted to recipients", Tag: tag, Need: rest.Govern}, "application/age",
		func(ctx context.Context, c rest.Caller, r *createRequest) (rest.Stream, error) {
			reason := r.Body.Reason
			if reason == "" {
				reason = c.Reason
			}
			if err := s.check(r.Body.Recipients, reason); err != nil {
				return nil, err
			}
			return func(w http.ResponseWriter) error {
				_, err := s.Create(ctx, audit.Person(c.ID, c.Name), reason, r.Body.Recipients, w)
				return err
			}, nil
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/restored", Summary: "List when this database was restored from a backup", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Restored, error) {
			all, err := s.List(ctx)
			return &all, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/resume", Summary: "Let a restored database work", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, r *resumeRequest) (*[]Restored, error) {
			reason := r.Body.Reason
			if reason == "" {
				reason = c.Reason
			}
			if err := s.Resume(ctx, audit.Person(c.ID, c.Name), reason); err != nil {
				return nil, err
			}
			all, err := s.List(ctx)
			return &all, err
		})
}
