package lifecycle

import (
	"context"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// Overview is everything that is under way.
type Overview struct {
	Departures    []Departure    `json:"departures" doc:"agents whose owner has left"`
	Offers        []Offer        `json:"offers" doc:"agents that wait to be accepted"`
	Decommissions []Decommission `json:"decommissions"`
	IdleAfter     string         `json:"idle_after,omitempty" doc:"after how long without a call an agent is suspended"`
}

type byName struct {
	Name string `path:"name" maxLength:"63"`
}

type reasoned struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type give struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		To     string `json:"to" maxLength:"63" doc:"an active user whose role may own agents"`
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type accepted struct {
	Agent string `json:"agent"`
	Owner string `json:"owner"`
}

func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const agent, tag = "/api/v1/agents/{name}", "lifecycle"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/lifecycle", Summary: "Show agents whose owner left, that are offered, or that were decommissioned", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*Overview, error) { return s.overview(ctx) })
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: agent + "/give", Summary: "Offer an agent to another owner", Tag: tag, Need: rest.Own, Of: "agent/{name}"},
		func(ctx context.Context, c rest.Caller, r *give) (*Offer, error) {
			o, err := s.Give(ctx, audit.Person(c.ID, c.Name), reasonOf(c, r.Body.Reason), r.Name, r.Body.To)
			return &o, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: agent + "/accept", Summary: "Become the owner of an agent that is offered to you, or whose owner left and whose backup you are", Tag: tag, Need: rest.Self},
		func(ctx context.Context, c rest.Caller, r *reasoned) (*accepted, error) {
			return &accepted{r.Name, c.Name}, s.Accept(ctx, c, reasonOf(c, r.Body.Reason), r.Name)
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: agent + "/decommission", Summary: "End an agent for good, and try that it is", Tag: tag, Need: rest.Own, Of: "agent/{name}"},
		func(ctx context.Context, c rest.Caller, r *reasoned) (*Decommission, error) {
			d, err := s.Decommission(ctx, audit.Person(c.ID, c.Name), reasonOf(c, r.Body.Reason), r.Name)
			return &d, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/decommissions/{name}", Summary: "Show a decommission and what was tried", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*Decommission, error) {
			d, err := s.find(ctx, s.o.DB, r.Name)
			return &d, err
		})
}

func (s *Service) overview(ctx context.Context) (v *Overview, err error) {
	v = &Overview{}
	if v.Departures, err = readDepartures(ctx, s.o.DB, ` ORDER BY agent`); err != nil {
		return nil, err
	}
	if v.Offers, err = readOffers(ctx, s.o.DB, ` ORDER BY agent`); err != nil {
		return nil, err
	}
	if s.o.IdleAfter > 0 {
		v.IdleAfter = s.o.IdleAfter.Truncate(time.Second).String()
	}
	v.Decommissions, err = s.Decommissions(ctx)
	return v, err
}
