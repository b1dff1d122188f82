package findings

import (
	"context"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type listRequest struct {
	Status   string `query:"status" enum:"open,closed" doc:"all if empty; open has those that are muted"`
	State    string `query:"state" enum:"open,muted,closed" doc:"all if empty; open is without those that are muted"`
	Rule     string `query:"rule"`
	Severity string `query:"severity" enum:"info,low,medium,high,critical"`
	Object   string `query:"object"`
	Agent    string `query:"agent"`
	Tuned    bool   `query:"tuned" doc:"only those with a note for whoever tunes their rule"`
	Before   string `query:"before" doc:"the id of the last finding of the page before"`
	Limit    int    `query:"limit" minimum:"0" maximum:"1000" doc:"100 if empty"`
}

type showRequest struct {
	ID string `path:"id" maxLength:"64"`
}

type reasonRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

type tuneRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Note string `json:"note" maxLength:"4000" doc:"how its rule should be set"`
	}
}

type muteFindingRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Until  time.Time `json:"until" doc:"within a year"`
		Reason string    `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

type muteRequest struct {
	Body struct {
		Rule   string    `json:"rule,omitempty" maxLength:"63" doc:"any if empty"`
		Object string    `json:"object,omitempty" maxLength:"512" doc:"any if empty"`
		Agent  string    `json:"agent,omitempty" maxLength:"100" doc:"any if empty"`
		Until  time.Time `json:"until" doc:"within a year"`
		Reason string    `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
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
	const path, tag = "/api/v1/findings", "findings"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List findings, newest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *listRequest) (*[]Finding, error) {
			found, err := s.List(ctx, Query{Status: r.Status, State: r.State, Rule: r.Rule, Severity: r.Severity, Object: r.Object, Agent: r.Agent, Tuned: r.Tuned, Before: r.Before, Limit: r.Limit})
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{id}", Summary: "Show a finding", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *showRequest) (*Finding, error) {
			f, err := s.Get(ctx, r.ID)
			return &f, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/close", Summary: "Close a finding", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *reasonRequest) (*Finding, error) {
			return s.after(ctx, r.ID, s.Close(ctx, audit.Person(c.ID, c.Name), r.ID, reasonOf(c, r.Body.Reason)))
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/tune", Summary: "Note on a finding how its rule should be set", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *tuneRequest) (*Finding, error) {
			return s.after(ctx, r.ID, s.Tune(ctx, audit.Person(c.ID, c.Name), r.ID, r.Body.Note))
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/mute", Summary: "Mute what a finding is about, under its rule, until a time", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *muteFindingRequest) (*Finding, error) {
			_, err := s.MuteFinding(ctx, audit.Person(c.ID, c.Name), r.ID, r.Body.Until, reasonOf(c, r.Body.Reason))
			return s.after(ctx, r.ID, err)
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/unmute", Summary: "End all mutes that mute a finding", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *reasonRequest) (*Finding, error) {
			_, err := s.UnmuteFinding(ctx, audit.Person(c.ID, c.Name), r.ID, reasonOf(c, r.Body.Reason))
			return s.after(ctx, r.ID, err)
		})
	s.muteRoutes(api)
}

// after returns a finding as it is after a change, or what went wrong with it.
func (s *Service) after(ctx context.Context, id string, err error) (*Finding, error) {
	if err != nil {
		return nil, err
	}
	f, err := s.Get(ctx, id)
	return &f, err
}

func (s *Service) muteRoutes(api *rest.API) {
	const path, tag = "/api/v1/finding-mutes", "findings"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List the mutes in force", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Mute, error) {
			found, err := s.Mutes(ctx)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path, Summary: "Mute findings of a rule, about an object or about an agent, until a time", Tag: tag, Need: rest.Write, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *muteRequest) (*Mute, error) {
			q := r.Body
			m, err := s.Mute(ctx, audit.Person(c.ID, c.Name), Mute{Rule: q.Rule, Object: q.Object, Agent: q.Agent, Until: q.Until}, reasonOf(c, q.Reason))
			return &m, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/end", Summary: "End a mute before its time", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *reasonRequest) (*Mute, error) {
			m, err := s.Unmute(ctx, audit.Person(c.ID, c.Name), r.ID, reasonOf(c, r.Body.Reason))
			return &m, err
		})
}
