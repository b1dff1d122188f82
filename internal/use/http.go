package use

import (
	"context"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

const tag = "use"

type listUse struct {
	Agent      string    `query:"agent" maxLength:"256"`
	Connection string    `query:"connection" maxLength:"256"`
	Tool       string    `query:"tool" maxLength:"256"`
	Rule       string    `query:"rule" maxLength:"256" doc:"grant:NAME or a policy: the calls that it determined"`
	Pairs      bool      `query:"pairs" doc:"agents and tools alone, not the grants and policies that determined the calls"`
	Since      time.Time `query:"since" doc:"from that day on (UTC)"`
	Until      time.Time `query:"until" doc:"until that day, which is included"`
	Days       bool      `query:"days" doc:"each day for itself"`
}

type useAnswer struct {
	Watched
	Uses []Use `json:"uses" doc:"values of arguments are those of agents that are yours, or of all if you may see contents"`
}

type listGrants struct {
	Agent string `query:"agent" maxLength:"256"`
}

type grantsAnswer struct {
	Watched
	Grants []GrantUse `json:"grants"`
}

type rebuildRequest struct {
	Body struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
		All    bool   `json:"all,omitempty" doc:"look at every argument that policies name by now, from the log's beginning on"`
	}
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const path = "/api/v1/use"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "Show what agents used", Tag: tag}, s.serveUse)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/grants", Summary: "Show what was used of grants", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *listGrants) (*grantsAnswer, error) {
			found, w, err := s.Grants(ctx, r.Agent)
			return &grantsAnswer{w, found}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/rebuild", Summary: "Read what was used from the log again", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *rebuildRequest) (*rest.None, error) {
			return nil, s.Rebuild(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Body.All)
		})
}

func actor(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

func (s *Service) serveUse(ctx context.Context, c rest.Caller, r *listUse) (*useAnswer, error) {
	found, w, err := s.Uses(ctx, Query{Agent: r.Agent, Connection: r.Connection, Tool: r.Tool, Rule: r.Rule, Pairs: r.Pairs, Since: r.Since, Until: r.Until, Days: r.Days})
	if err != nil {
		return nil, err
	}
	if err := s.withoutContents(ctx, c, found); err != nil {
		return nil, err
	}
	return &useAnswer{w, found}, nil
}

// withoutContents takes away the values of arguments of agents that are not the
// caller's, if the caller may not see all.
func (s *Service) withoutContents(ctx context.Context, c rest.Caller, found []Use) error {
	if c.May(rest.Inspect) {
		return nil
	}
	mine := map[string]bool{}
	for i := range found {
		agent := found[i].Agent
		if _, known := mine[agent]; !known && s.o.Owns != nil {
			owns, err := s.o.Owns(ctx, c.Name, "agent/"+agent)
			if err != nil {
				return err
			}
			mine[agent] = owns
		}
		if !mine[agent] {
			found[i].Arguments = nil
		}
	}
	return nil
}
