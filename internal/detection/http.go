package detection

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type listRequest struct {
	All   bool   `query:"all" doc:"those that have ended too"`
	Agent string `query:"agent" maxLength:"63"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"100 if empty"`
}

type byID struct {
	ID string `path:"id" maxLength:"64"`
}

type byName struct {
	Name string `path:"name" maxLength:"63"`
}

type liftRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type modeRequest struct {
	Name string `path:"name" maxLength:"63" doc:"of a rule; * for all"`
	Body struct {
		Mode   string `json:"mode" enum:"observe,enforce,off"`
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type reasonRequest struct {
	Body struct {
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type testRequest struct {
	Body struct {
		Rule  string `json:"rule,omitempty" maxLength:"63" doc:"only this rule"`
		Trace string `json:"trace,omitempty" doc:"events as lines of a trace or of an exported log; if absent, the rules' own test cases are run"`
	}
}

type reconcileRequest struct {
	Body struct {
		Rows   []Used `json:"rows" minItems:"1" maxItems:"20000"`
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

func person(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

// Status says how detection goes.
type Status struct {
	Behind     int64     `json:"behind" doc:"records of the log that were not evaluated yet"`
	ActsSince  time.Time `json:"acts_since,omitzero" doc:"what is older is learned from, not acted upon"`
	Rules      int       `json:"rules"`
	Enforcing  int       `json:"enforcing" doc:"rules that act"`
	Active     int       `json:"active" doc:"responses in force"`
	Baselines  []Normal  `json:"baselines" doc:"what is normal, of the agent that was asked about"`
	Overridden []string  `json:"overridden" doc:"rules that people wrote"`
}

// Tested is what came of a test.
type Tested struct {
	Events int     `json:"events" doc:"evaluated"`
	Found  []Found `json:"found" doc:"what rules found"`
	Cases  []Try   `json:"cases" doc:"the rules' own test cases"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const path, tag = "/api/v1/detections", "detection"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List detections, the newest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *listRequest) (*[]Detection, error) {
			found, err := s.List(ctx, r.All, r.Agent, r.Limit)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{id}", Summary: "Show a detection: what was seen, what was done, and how fast", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byID) (*Detection, error) {
			d, err := s.Get(ctx, r.ID)
			return &d, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/lift", Summary: "End the response of a detection", Tag: tag, Need: rest.Stop},
		func(ctx context.Context, c rest.Caller, r *liftRequest) (*Detection, error) {
			d, err := s.Lift(ctx, person(c), reasonOf(c, r.Body.Reason), r.ID)
			return &d, err
		})
	s.ruleRoutes(api, tag)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/detection/status", Summary: "Show how detection goes, and what is normal of an agent", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *struct {
			Agent string `query:"agent" maxLength:"63"`
		}) (*Status, error) {
			return s.Status(ctx, r.Agent)
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/detection/reconcile", Summary: "Compare a provider's account of use with the log", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *reconcileRequest) (*[]Compared, error) {
			out, err := s.Reconcile(ctx, person(c), reasonOf(c, r.Body.Reason), r.Body.Rows)
			return &out, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/detection/rebuild", Summary: "Count the log again from its beginning", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *reasonRequest) (*rest.None, error) {
			return nil, s.Rebuild(ctx, person(c), reasonOf(c, r.Body.Reason))
		})
}

func (s *Service) ruleRoutes(api *rest.API, tag string) {
	const path = "/api/v1/detection/rules"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List detection rules", Tag: tag},
		func(_ context.Context, _ rest.Caller, _ *struct{}) (*[]RuleInfo, error) {
			rules := s.Rules()
			return &rules, nil
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{name}", Summary: "Show a detection rule", Tag: tag},
		func(_ context.Context, _ rest.Caller, r *byName) (*RuleInfo, error) {
			for _, info := range s.Rules() {
				if info.ID == r.Name {
					return &info, nil
				}
			}
			return nil, ErrNoRule
		})
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: path + "/{name}/mode", Summary: "Let a detection rule act, or only observe", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *modeRequest) (*[]RuleInfo, error) {
			out, err := s.SetMode(ctx, person(c), reasonOf(c, r.Body.Reason), strings.TrimPrefix(r.Name, "*"), r.Body.Mode)
			return &out, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/detection/test", Summary: "Run the rules over a trace or recorded events, changing nothing", Tag: tag, Need: rest.Inspect, MaxBody: 64 << 20},
		func(ctx context.Context, _ rest.Caller, r *testRequest) (*Tested, error) {
			return s.Test(ctx, r.Body.Rule, r.Body.Trace)
		})
}
