package manifest

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/secrets"
)

// applyRequest is what apply takes. rest never shows what was sent in its
// refusals, so a value in the wrong place is not repeated.
type applyRequest struct {
	Body struct {
		Files   []File            `json:"files" doc:"as they are, .yaml and .cedar"`
		Secrets map[string]string `json:"secrets,omitempty" doc:"values by name of the Secret; never in a file"`
		DryRun  bool              `json:"dry_run,omitempty" doc:"find out what would change, and change nothing"`
	}
}

// Exported is the answer of export.
type Exported struct {
	Files []File `json:"files"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/apply", Summary: "Apply resources from files; with dry_run, find out what that would change", Tag: "manifest", Need: rest.Write, MaxBody: 2 * connections.MaxDocument}, s.httpApply) // documents are escaped in JSON
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/export", Summary: "Export all resources as files, without secrets", Tag: "manifest"}, s.httpExport)
}

func (s *Service) httpApply(ctx context.Context, c rest.Caller, r *applyRequest) (*Result, error) {
	req := Request{Files: r.Body.Files, Secrets: map[string]secrets.Value{}, DryRun: r.Body.DryRun}
	for name, value := range r.Body.Secrets {
		req.Secrets[name] = secrets.NewValue([]byte(value))
	}
	defer func() {
		for _, v := range req.Secrets {
			v.Wipe()
		}
	}()
	res, err := s.Apply(ctx, audit.Person(c.ID, c.Name), c.Reason, req)
	if err != nil {
		return nil, err
	}
	return &res, nil
}

func (s *Service) httpExport(ctx context.Context, _ rest.Caller, _ *struct{}) (*Exported, error) {
	files, err := s.Export(ctx)
	if err != nil {
		return nil, err
	}
	return &Exported{Files: append([]File{}, files...)}, nil
}
