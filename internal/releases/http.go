package releases

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/rest"
)

type listRequest struct {
	Agent string `query:"agent" maxLength:"63" doc:"of this agent alone"`
}

type byRun struct {
	Name string `path:"name" maxLength:"63"`
	Run  string `query:"run" maxLength:"64" doc:"a run of the agent, to learn which release binds it"`
}

type byNumber struct {
	Name   string `path:"name" maxLength:"63"`
	Number int64  `path:"number" minimum:"0" doc:"0: the newest"`
}

type createRequest struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Models  []string      `json:"models,omitempty" doc:"CONNECTION/MODEL; those that the agent used in the last 30 days if absent"`
		Prompts []string      `json:"prompts,omitempty" doc:"hex SHA-256 of system prompts, without the space around them; none are pinned if absent"`
		Tests   []policy.Case `json:"tests,omitempty" doc:"decisions that must come out so before it is promoted; those of the release before if absent"`
		Reason  string        `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type rollbackRequest struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		To     int64  `json:"to,omitzero" minimum:"0" doc:"a release that was in force in this stage; the one before if absent"`
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type diffRequest struct {
	Name string `path:"name" maxLength:"63"`
	From int64  `query:"from" minimum:"0" doc:"a release; the one in force if 0"`
	To   int64  `query:"to" minimum:"-1" doc:"a release; the newest if 0, the agent as it is now if -1"`
}

type promoteRequest struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Number  int64    `json:"number,omitzero" minimum:"0" doc:"the newest if absent"`
		Stage   string   `json:"stage,omitempty" enum:"development,staging,production" doc:"the agent's if absent"`
		Percent int64    `json:"percent,omitzero" minimum:"0" maximum:"100" doc:"makes a canary: the share of the runs that try it; all runs, and nothing is judged, if absent"`
		Signals *Signals `json:"signals,omitempty" doc:"by what a canary is judged; 20 percent refused or failed and findings of high severity if absent"`
		Accept  []string `json:"accept,omitempty" maxItems:"200" doc:"items of the gate that may be missing, each by its id"`
		Reason  string   `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type gateRequest struct {
	Name   string   `path:"name" maxLength:"63"`
	Number int64    `query:"number" minimum:"0" doc:"a release; the newest if 0"`
	Stage  string   `query:"stage" maxLength:"20" doc:"the agent's if empty"`
	Accept []string `query:"accept" maxItems:"200" doc:"items that may be missing"`
}

type requestsRequest struct {
	All bool `query:"all" doc:"those that were decided too"`
}

type decideRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

// standingAnswer is an agent's releases in force and how it came to that.
type standingAnswer struct {
	State
	Binds int64  `json:"binds,omitzero" doc:"the release that binds the run that was asked for"`
	Moves []Move `json:"moves" doc:"the latest first"`
}

func person(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const tag, agent = "releases", "/api/v1/agents/{name}"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/releases", Summary: "List releases, of each agent the newest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *listRequest) (*[]Release, error) {
			found, err := s.List(ctx, r.Agent)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: agent + "/releases/{number}", Summary: "Show a release", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byNumber) (*Release, error) {
			one, err := s.Get(ctx, r.Name, r.Number)
			return &one, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: agent + "/releases", Summary: "Make a release of what an agent is now", Tag: tag, Need: rest.Own, Of: "agent/{name}", Status: http.StatusCreated, MaxBody: 4 << 20},
		func(ctx context.Context, c rest.Caller, r *createRequest) (*Release, error) {
			b := r.Body
			one, err := s.Create(ctx, person(c), reasonOf(c, b.Reason), r.Name, Spec{Models: b.Models, Prompts: b.Prompts, Tests: b.Tests})
			return &one, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: agent + "/release", Summary: "Show which release of an agent is in force, and what was done", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byRun) (*standingAnswer, error) {
			st, err := s.State(ctx, r.Name)
			if err != nil {
				return nil, err
			}
			out := &standingAnswer{State: st}
			if r.Run != "" {
				out.Binds = s.Of(r.Name, r.Run)
			}
			out.Moves, err = s.Moves(ctx, r.Name)
			return out, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: agent + "/release/diff", Summary: "Compare two releases, or one with the agent as it is now", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *diffRequest) (*Diff, error) {
			d, err := s.Diff(ctx, r.Name, r.From, r.To)
			return &d, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: agent + "/release/rollback", Summary: "Return to the release before: pins, grants and the agent's own policies", Tag: tag, Need: rest.Own, Of: "agent/{name}"},
		func(ctx context.Context, c rest.Caller, r *rollbackRequest) (*Moved, error) {
			m, err := s.Rollback(ctx, person(c), reasonOf(c, r.Body.Reason), Back{Agent: r.Name, To: r.Body.To, Gives: c.May(rest.Write)})
			return &m, err
		})
	s.promotionRoutes(api, tag, agent)
}

func (s *Service) promotionRoutes(api *rest.API, tag, agent string) {
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: agent + "/release/promote", Summary: "Ask for a release to be put in force; in development it is at once", Tag: tag, Need: rest.Own, Of: "agent/{name}", Status: http.StatusAccepted},
		func(ctx context.Context, c rest.Caller, r *promoteRequest) (*Request, error) {
			b := r.Body
			q, err := s.Promote(ctx, person(c), reasonOf(c, b.Reason), Ask{Agent: r.Name, Number: b.Number, Stage: b.Stage, Percent: b.Percent, Signals: b.Signals, Accepted: b.Accept, Gives: c.May(rest.Write)})
			return &q, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: agent + "/release/check", Summary: "Show whether a release passes the readiness gate, and what mends what is missing", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *gateRequest) (*Report, error) {
			found, err := s.Gate(ctx, r.Name, r.Number, r.Stage, r.Accept)
			return &found, err
		})
	const asks = "/api/v1/release-requests"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: asks, Summary: "List promotions that wait for another person, the latest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *requestsRequest) (*[]Request, error) {
			found, err := s.Requests(ctx, r.All)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: asks + "/{id}/approve", Summary: "Approve a promotion that another person asked for, which happens at once", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *decideRequest) (*Request, error) {
			q, err := s.Approve(ctx, person(c), reasonOf(c, r.Body.Reason), r.ID)
			return &q, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: asks + "/{id}/deny", Summary: "Refuse a promotion", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *decideRequest) (*Request, error) {
			q, err := s.Deny(ctx, person(c), reasonOf(c, r.Body.Reason), r.ID)
			return &q, err
		})
}
