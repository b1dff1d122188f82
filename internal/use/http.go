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
	s.rightsizingRoutes(api)
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/rebuild", Summary: "Read what was used from the log again", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *rebuildRequest) (*rest.None, error) {
			return nil, s.Rebuild(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Body.All)
		})
}

type proposeRequest struct {
	Name string `path:"name" maxLength:"256"`
	Body struct {
		Window string `json:"window,omitempty" maxLength:"20" doc:"how far back use is judged, such as 720h; 90 days if absent. A younger grant is not judged"`
	}
}

type proposals struct {
	Watched
	Proposals []Proposal `json:"proposals"`
}

type listProposals struct {
	Agent string `query:"agent" maxLength:"256"`
	State string `query:"state" enum:"proposed,tried,accepted,reverted,dropped"`
}

type decideProposal struct {
	Grant  string `path:"grant" maxLength:"100"`
	Digest string `path:"digest" maxLength:"20" doc:"of the proposal's identifier, what follows the colon"`
	Body   struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
		Force  bool   `json:"force,omitempty" doc:"of accept: though calls came since that it would refuse"`
	}
}

func (s *Service) rightsizingRoutes(api *rest.API) {
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/agents/{name}/rightsizings", Summary: "Propose how an agent's grants can shrink to what is used", Tag: tag, Need: rest.Own, Of: "agent/{name}"},
		func(ctx context.Context, c rest.Caller, r *proposeRequest) (*proposals, error) {
			var window time.Duration
			if r.Body.Window != "" {
				var err error
				if window, err = time.ParseDuration(r.Body.Window); err != nil {
					return nil, ErrWindow.Say("the window %q is no duration such as 720h", r.Body.Window)
				}
			}
			found, w, err := s.Propose(ctx, actor(c), r.Name, window)
			return &proposals{w, found}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/rightsizings", Summary: "List proposals to make grants smaller, and what became of them", Tag: tag},
		func(ctx context.Context, c rest.Caller, r *listProposals) (*[]Proposal, error) {
			found, err := s.Proposals(ctx, r.Agent, r.State)
			if err != nil {
				return nil, err
			}
			found, err = s.visible(ctx, c, found)
			return &found, err
		})
	for _, verb := range []struct {
		name, summary string
		do            func(ctx context.Context, c rest.Caller, r *decideProposal, id string) (Proposal, error)
	}{
		{"try", "Note what a proposal would refuse, and refuse nothing", func(ctx context.Context, c rest.Caller, r *decideProposal, id string) (Proposal, error) {
			return s.Try(ctx, actor(c), reasonOf(c, r.Body.Reason), id)
		}},
		{"accept", "Make a grant what a proposal says", func(ctx context.Context, c rest.Caller, r *decideProposal, id string) (Proposal, error) {
			return s.Accept(ctx, actor(c), reasonOf(c, r.Body.Reason), id, r.Body.Force)
		}},
		{"revert", "Give back what an accepted proposal took", func(ctx context.Context, c rest.Caller, r *decideProposal, id string) (Proposal, error) {
			return s.Revert(ctx, actor(c), reasonOf(c, r.Body.Reason), id)
		}},
		{"drop", "Say that a proposal is not wanted", func(ctx context.Context, c rest.Caller, r *decideProposal, id string) (Proposal, error) {
			return s.Drop(ctx, actor(c), reasonOf(c, r.Body.Reason), id)
		}},
	} {
		rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/grants/{grant}/rightsizings/{digest}/" + verb.name, Summary: verb.summary, Tag: tag, Need: rest.Own, Of: "grant/{grant}"},
			func(ctx context.Context, c rest.Caller, r *decideProposal) (*Proposal, error) {
				p, err := verb.do(ctx, c, r, r.Grant+":"+r.Digest)
				return &p, err
			})
	}
}

// visible leaves out proposals that tell of contents which the caller may not
// see.
func (s *Service) visible(ctx context.Context, c rest.Caller, found []Proposal) ([]Proposal, error) {
	if c.May(rest.Inspect) {
		return found, nil
	}
	out := []Proposal{}
	for _, p := range found {
		owns, err := s.owns(ctx, c, p.Agent)
		if err != nil {
			return nil, err
		}
		if owns {
			out = append(out, p)
		}
	}
	return out, nil
}

func (s *Service) owns(ctx context.Context, c rest.Caller, agent string) (bool, error) {
	if s.o.Owns == nil {
		return false, nil
	}
	return s.o.Owns(ctx, c.Name, "agent/"+agent)
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
		if _, known := mine[agent]; !known {
			owns, err := s.owns(ctx, c, agent)
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
