package posture

import (
	"cmp"
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type byID struct {
	ID string `path:"id" maxLength:"100"`
}

type inFramework struct {
	ID   string `path:"id" maxLength:"100"`
	Days int    `query:"days" default:"90" minimum:"1" maximum:"400" doc:"of the period of shares, until now"`
}

type trendOf struct {
	Predicate string `query:"predicate" maxLength:"10" doc:"E1 to E12; empty: all"`
	Days      int    `query:"days" default:"90" minimum:"1" maximum:"400"`
}

type asked struct {
	Days int    `query:"days" default:"90" minimum:"1" maximum:"400" doc:"of the period of shares, until now"`
	ID   string `query:"id" required:"true" maxLength:"100" doc:"a requirement in any spelling: NHI-02, PR.AC-4, AGENT-03, CC6.1, Art. 12, A.6.2.8"`
}

type runRequest struct {
	Body struct {
		Predicates []string `json:"predicates,omitempty" maxItems:"12" doc:"E1 to E12; none means all"`
		Reason     string   `json:"reason,omitempty"`
	}
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const at, tag = "/api/v1/posture", "posture"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: at, Summary: "Show the newest result of every predicate, and of frameworks in numbers", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*Overview, error) {
			o, err := s.Overview(ctx)
			return &o, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: at + "/run", Summary: "Compute evidence now", Tag: tag, Need: rest.Inspect, Status: http.StatusOK},
		func(ctx context.Context, c rest.Caller, r *runRequest) (*Run, error) {
			run, err := s.Evaluate(ctx, audit.Person(c.ID, c.Name), cmp.Or(r.Body.Reason, c.Reason), r.Body.Predicates...)
			return &run, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: at + "/begin", Summary: "Begin to compute evidence, and do not wait for it", Tag: tag, Need: rest.Inspect, Status: http.StatusAccepted},
		func(ctx context.Context, c rest.Caller, r *runRequest) (*Progress, error) {
			p, err := s.Begin(ctx, audit.Person(c.ID, c.Name), cmp.Or(r.Body.Reason, c.Reason), r.Body.Predicates...)
			return &p, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: at + "/progress", Summary: "Show how far the run under way is, or how the last one ended", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*Progress, error) {
			p, err := s.Progress(ctx)
			return &p, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: at + "/trend", Summary: "Show how predicates went over a period", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *trendOf) (*[]Trend, error) {
			t, err := s.Trends(ctx, r.Predicate, r.Days)
			return &t, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: at + "/predicates/{id}", Summary: "Show a predicate and its newest evidence", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byID) (*Detail, error) {
			d, err := s.Detail(ctx, r.ID)
			return &d, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: at + "/evidence/{id}", Summary: "Show one result as it was computed", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byID) (*Stored, error) {
			e, err := s.Evidence(ctx, r.ID)
			return &e, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: at + "/frameworks/{id}", Summary: "Show how the requirements of a framework stand", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *inFramework) (*Catalog, error) {
			c, err := s.Catalog(ctx, r.ID, r.Days)
			return &c, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: at + "/requirement", Summary: "Show how a requirement stands", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *asked) (*Requirement, error) {
			q, err := s.Requirement(ctx, r.ID, r.Days)
			return &q, err
		})
	rest.HandleStream(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/evidence/export", Summary: "Export the newest evidence as one signed bundle", Tag: tag, Need: rest.Inspect}, "application/x-tar",
		func(ctx context.Context, c rest.Caller, _ *struct{}) (rest.Stream, error) {
			b, err := s.Export(ctx, audit.Person(c.ID, c.Name), c.Reason)
			if err != nil {
				return nil, err
			}
			return func(w http.ResponseWriter) error {
				w.Header().Set("Content-Disposition", `attachment; filename="evidence.tar"`)
				_, err := w.Write(b)
				return err
			}, nil
		})
}
