package budget

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// Usage is a budget and what was used of it.
type Usage struct {
	Budget
	Currency string   `json:"currency,omitempty" doc:"of a budget of money"`
	Windows  []Window `json:"windows" doc:"the latest first"`
}

// Used returns what was used of a budget, in its latest windows.
func (s *Service) Used(ctx context.Context, name string, most int) (Usage, error) {
	b, err := s.Get(ctx, name)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Budget: b}
	if b.Meter == Money {
		u.Currency = currency
	}
	if u.Windows, err = readWindows(ctx, s.db, b.ID, most); err != nil {
		return Usage{}, err
	}
	for i := range u.Windows {
		w := &u.Windows[i]
		w.ID = b.Name + "/" + w.Part + "@" + w.Start.UTC().Format("2006-01-02T15:04:05Z")
		w.Left = max(0, b.Hard-w.Spent-w.Reserved)
	}
	return u, nil
}

type byName struct {
	Name string `path:"name" maxLength:"63"`
}

type putRequest struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Meter  string `json:"meter" enum:"calls,effects,tokens,money"`
		Agent  string `json:"agent,omitempty" maxLength:"63"`
		Team   string `json:"team,omitempty" maxLength:"63"`
		Tool   string `json:"tool,omitempty" maxLength:"200" doc:"CONNECTION/TOOL, or CONNECTION/*"`
		Each   string `json:"each,omitempty" enum:"agent,run,"`
		Period string `json:"period" enum:"hour,day,month,total"`
		Zone   string `json:"zone,omitempty" maxLength:"64" doc:"IANA time zone; UTC if left out"`
		Hard   int64  `json:"hard,omitempty" minimum:"0" maximum:"1000000000000000" doc:"money in millionths"`
		Soft   int64  `json:"soft,omitempty" minimum:"0" maximum:"1000000000000000" doc:"money in millionths"`
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type deleteRequest struct {
	Name   string `path:"name" maxLength:"128"`
	Reason string `query:"reason" doc:"needed, here or in the header"`
}

type usageRequest struct {
	Name  string `path:"name" maxLength:"63"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"windows at most; 50 if left out"`
}

type priceRequest struct {
	Name string `path:"name" maxLength:"128" doc:"the model"`
	Body struct {
		Input     float64 `json:"input" minimum:"0" maximum:"1000" doc:"for a million tokens of a request"`
		Cached    float64 `json:"cached,omitempty" minimum:"0" maximum:"1000" doc:"for a million of them that the provider had kept; input if left out"`
		Output    float64 `json:"output" minimum:"0" maximum:"1000" doc:"for a million tokens of an answer"`
		MaxOutput int64   `json:"max_output,omitempty" minimum:"0" doc:"tokens that an answer has at most"`
		Source    string  `json:"source,omitempty" maxLength:"300" doc:"where the price is from"`
		Reason    string  `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
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
	const path, one, tag = "/api/v1/budgets", "/api/v1/budgets/{name}", "budgets"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List budgets", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Budget, error) {
			found, err := readBudgets(ctx, s.db, ` ORDER BY name`)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: one, Summary: "Show a budget", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*Budget, error) {
			b, err := s.Get(ctx, r.Name)
			return &b, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: one + "/usage", Summary: "Show what was used of a budget", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *usageRequest) (*Usage, error) {
			most := r.Limit
			if most == 0 {
				most = 50
			}
			u, err := s.Used(ctx, r.Name, most)
			return &u, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: one, Summary: "Set a budget", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *putRequest) (*Budget, error) {
			q := r.Body
			b, err := s.Put(ctx, person(c), reasonOf(c, q.Reason), Budget{Name: r.Name, Meter: q.Meter, Agent: q.Agent, Team: q.Team, Tool: q.Tool, Each: q.Each, Period: q.Period, Zone: q.Zone, Hard: q.Hard, Soft: q.Soft})
			return &b, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: one, Summary: "Delete a budget and what it counted", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *deleteRequest) (*rest.None, error) {
			return nil, s.Delete(ctx, person(c), reasonOf(c, r.Reason), r.Name)
		})
	s.priceRoutes(api, tag)
}

func (s *Service) priceRoutes(api *rest.API, tag string) {
	const path = "/api/v1/prices"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List what models cost", Tag: tag},
		func(_ context.Context, _ rest.Caller, _ *struct{}) (*Table, error) {
			p := s.Prices()
			return &Table{Dated: p.dated, Source: "each price names its own; a model that is not listed counts at the dearest of each column", Currency: currency, Models: p.all}, nil
		})
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: path + "/{name}", Summary: "Set what a model costs", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *priceRequest) (*Price, error) {
			q := r.Body
			if q.Cached == 0 {
				q.Cached = q.Input
			}
			p, err := s.SetPrice(ctx, person(c), reasonOf(c, q.Reason), Price{Model: r.Name, Input: q.Input, Cached: q.Cached, Output: q.Output, MaxOutput: q.MaxOutput, Source: q.Source})
			return &p, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{name}", Summary: "Remove a price that was set", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *deleteRequest) (*rest.None, error) {
			return nil, s.RemovePrice(ctx, person(c), reasonOf(c, r.Reason), r.Name)
		})
}
