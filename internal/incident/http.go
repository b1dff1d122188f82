package incident

import (
	"context"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type listRequest struct {
	State  string `query:"state" enum:"open,closed" doc:"all if empty"`
	Before string `query:"before" maxLength:"64" doc:"the id of the last incident of the page before"`
	Limit  int    `query:"limit" minimum:"0" maximum:"1000" doc:"100 if empty"`
}

type openRequest struct {
	Body struct {
		Finding  string    `json:"finding,omitempty" maxLength:"64"`
		Agent    string    `json:"agent,omitempty" maxLength:"63"`
		Run      string    `json:"run,omitempty" maxLength:"256"`
		Title    string    `json:"title,omitempty" maxLength:"300" doc:"of the finding, or what it is about, if empty"`
		Severity string    `json:"severity,omitempty" maxLength:"16"`
		Since    time.Time `json:"since,omitzero" required:"false" doc:"an hour before the first sign of it, a day ago for an agent, or the run's beginning, if absent"`
		Until    time.Time `json:"until,omitzero" required:"false" doc:"as long as it is open, if absent"`
		Reason   string    `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type showRequest struct {
	ID       string `path:"id" maxLength:"64"`
	Contents bool   `query:"contents" doc:"with what you may see of contents; that you saw them is recorded"`
}

type noteRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Text string `json:"text" maxLength:"16000"`
	}
}

type closeRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"the conclusion; needed, here or in the header"`
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
	const path, tag = "/api/v1/incidents", "incidents"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List incidents, the latest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *listRequest) (*[]Incident, error) {
			found, err := s.List(ctx, r.State, r.Before, r.Limit)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path, Summary: "Open an incident from a finding, an agent or a run", Tag: tag, Need: rest.Write, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *openRequest) (*Incident, error) {
			q := r.Body
			i, err := s.Open(ctx, audit.Person(c.ID, c.Name), reasonOf(c, q.Reason), Start{Finding: q.Finding, Agent: q.Agent, Run: q.Run, Title: q.Title, Severity: q.Severity, Since: q.Since, Until: q.Until})
			return &i, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{id}", Summary: "Show an incident with its account, notes, undo plans and reach", Tag: tag},
		func(ctx context.Context, c rest.Caller, r *showRequest) (*View, error) {
			v, err := s.View(ctx, c, r.ID, r.Contents)
			return &v, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/notes", Summary: "Add a note to an incident", Tag: tag, Need: rest.Write, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *noteRequest) (*Remark, error) {
			n, err := s.Note(ctx, audit.Person(c.ID, c.Name), r.ID, r.Body.Text)
			return &n, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/close", Summary: "Close an incident", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *closeRequest) (*Incident, error) {
			i, err := s.Close(ctx, audit.Person(c.ID, c.Name), r.ID, reasonOf(c, r.Body.Reason))
			return &i, err
		})
	rest.HandleStream(api, rest.Op{Method: http.MethodGet, Path: path + "/{id}/export", Summary: "Export an incident as one signed file with proofs", Tag: tag, Need: rest.Inspect}, "application/x-tar",
		func(ctx context.Context, c rest.Caller, r *showRequest) (rest.Stream, error) {
			b, err := s.Export(ctx, c, r.ID, r.Contents)
			if err != nil {
				return nil, err
			}
			return func(w http.ResponseWriter) error {
				w.Header().Set("Content-Disposition", `attachment; filename="incident.tar"`)
				_, err := w.Write(b)
				return err
			}, nil
		})
}
