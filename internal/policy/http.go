package policy

import (
	"context"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

const tag = "policy"

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	s.fileRoutes(api)
	s.grantRoutes(api)
	s.questionRoutes(api)
}

func actor(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

// reasonOf prefers the reason in the body to the one in the header.
func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

type byName struct {
	Name string `path:"name" maxLength:"100"`
}

type putFile struct {
	Name string `path:"name" maxLength:"100"`
	Body struct {
		Text   string `json:"text" doc:"Cedar policies"`
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

// savedFile is a file and whether saving it changed anything.
type savedFile struct {
	File
	Changed bool `json:"changed"`
}

func (s *Service) fileRoutes(api *rest.API) {
	const path = "/api/v1/policies"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List policy files", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]File, error) {
			found, err := s.Files(ctx)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{name}", Summary: "Show a policy file", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*File, error) {
			f, err := s.File(ctx, r.Name)
			return &f, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{name}/history", Summary: "List a policy file's versions, newest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*[]Version, error) {
			found, err := s.History(ctx, r.Name)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: path + "/{name}", Summary: "Save a policy file", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *putFile) (*savedFile, error) {
			changed, err := s.PutPolicies(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Name, r.Body.Text)
			if err != nil {
				return nil, err
			}
			f, err := s.File(ctx, r.Name)
			return &savedFile{f, changed}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{name}/rollback", Summary: "Save an earlier version of a policy file as its newest", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *rollbackRequest) (*rolledBack, error) {
			changed, err := s.RollbackPolicy(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Name, r.Body.Version)
			if err != nil {
				return nil, err
			}
			found, err := s.History(ctx, r.Name)
			if err != nil {
				return nil, err
			}
			return &rolledBack{r.Name, found[0].Version, changed}, nil
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{name}", Summary: "Delete a policy file; its history stays", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *byName) (*rest.None, error) {
			return nil, s.DeletePolicy(ctx, actor(c), c.Reason, r.Name)
		})
}

type rollbackRequest struct {
	Name string `path:"name" maxLength:"100"`
	Body struct {
		Version int64  `json:"version,omitempty" minimum:"0" doc:"the one before the present if absent"`
		Reason  string `json:"reason,omitempty" doc:"needed, here or in the header X-Countersign-Reason"`
	}
}

// rolledBack is what is in force after a rollback.
type rolledBack struct {
	ID      string `json:"id"`
	Version int64  `json:"version" doc:"the newest, which says what is in force"`
	Changed bool   `json:"changed"`
}

type listGrants struct {
	Agent string `query:"agent" maxLength:"256"`
}

type putGrant struct {
	Name string `path:"name" maxLength:"100"`
	Body struct {
		Agent      string    `json:"agent"`
		Connection string    `json:"connection"`
		Tools      []string  `json:"tools" doc:"names, or * for all of the connection"`
		When       string    `json:"when,omitempty" doc:"a Cedar expression, such as context.args.amount < 1000"`
		Expires    time.Time `json:"expires,omitzero" doc:"never, if absent"`
		Reason     string    `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

// savedGrant is a grant and whether saving it changed anything.
type savedGrant struct {
	Grant
	Changed bool `json:"changed"`
}

func (s *Service) grantRoutes(api *rest.API) {
	const path = "/api/v1/grants"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List grants", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *listGrants) (*[]Grant, error) {
			found, err := s.Grants(ctx, r.Agent)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{name}", Summary: "Show a grant", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*Grant, error) {
			g, err := s.Grant(ctx, r.Name)
			return &g, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: path + "/{name}", Summary: "Give or change a grant", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *putGrant) (*savedGrant, error) {
			b := r.Body
			changed, err := s.PutGrant(ctx, actor(c), reasonOf(c, b.Reason),
				Grant{Name: r.Name, Agent: b.Agent, Connection: b.Connection, Tools: b.Tools, When: b.When, Expires: b.Expires})
			if err != nil {
				return nil, err
			}
			g, err := s.Grant(ctx, r.Name)
			return &savedGrant{g, changed}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{name}/history", Summary: "List a grant's versions, newest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*[]GrantVersion, error) {
			found, err := s.GrantHistory(ctx, r.Name)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{name}/rollback", Summary: "Give a grant back as it was", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *rollbackRequest) (*rolledBack, error) {
			changed, err := s.RollbackGrant(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Name, r.Body.Version)
			if err != nil {
				return nil, err
			}
			found, err := s.GrantHistory(ctx, r.Name)
			if err != nil {
				return nil, err
			}
			return &rolledBack{r.Name, found[0].Version, changed}, nil
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{name}", Summary: "Revoke a grant", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *byName) (*rest.None, error) {
			return nil, s.RevokeGrant(ctx, actor(c), c.Reason, r.Name)
		})
}

type namedText struct {
	Name string `json:"name" maxLength:"100"`
	Text string `json:"text"`
}

type checkRequest struct {
	Body struct {
		Files []namedText `json:"files,omitempty" doc:"Cedar texts; what is wrong with the saved files and grants is listed if there are none"`
	}
}

type checkAnswer struct {
	Problems []Problem `json:"problems"`
}

type testRequest struct {
	Body struct {
		Cases []Case      `json:"cases"`
		Files []namedText `json:"files,omitempty" doc:"in place of the saved files of these names; an empty text leaves one out"`
	}
}

type testAnswer struct {
	Passed   bool      `json:"passed"`
	Results  []Result  `json:"results"`
	Problems []Problem `json:"problems,omitempty" doc:"of the files given"`
}

type whyRequest struct {
	Body struct {
		Event string `json:"event,omitempty" doc:"a recorded event of a call; else case"`
		Case  *Case  `json:"case,omitempty" doc:"a hypothetical call; its expect is not needed"`
	}
}

type schemaAnswer struct {
	Schema string   `json:"schema" doc:"in Cedar's schema language"`
	Notes  []string `json:"notes,omitempty" doc:"what policy cannot see of the tools"`
}

func (s *Service) questionRoutes(api *rest.API) {
	const path = "/api/v1/policy"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/schema", Summary: "Show the schema that follows from the registered tools", Tag: tag},
		func(context.Context, rest.Caller, *struct{}) (*schemaAnswer, error) {
			text, notes := s.Schema()
			return &schemaAnswer{text, notes}, nil
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/check", Summary: "Check policies without saving them", Tag: tag, Need: rest.Read},
		func(_ context.Context, _ rest.Caller, r *checkRequest) (*checkAnswer, error) {
			a := &checkAnswer{Problems: []Problem{}}
			if len(r.Body.Files) == 0 {
				a.Problems = append(a.Problems, s.Problems()...)
			}
			for _, f := range r.Body.Files {
				problems, err := s.Check(f.Name, f.Text)
				if err != nil {
					return nil, err
				}
				a.Problems = append(a.Problems, problems...)
			}
			return a, nil
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/test", Summary: "Compare decisions with expected ones", Tag: tag, Need: rest.Read},
		func(_ context.Context, _ rest.Caller, r *testRequest) (*testAnswer, error) {
			overlay := map[string]string{}
			for _, f := range r.Body.Files {
				overlay[f.Name] = f.Text
			}
			results, problems, err := s.Test(r.Body.Cases, overlay)
			if err != nil {
				return nil, err
			}
			a := &testAnswer{Passed: len(problems) == 0, Results: results, Problems: problems}
			for _, one := range results {
				a.Passed = a.Passed && one.Passed
			}
			return a, nil
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/why", Summary: "Explain the decision of a recorded or hypothetical call", Tag: tag, Need: rest.Read},
		func(ctx context.Context, c rest.Caller, r *whyRequest) (*Explanation, error) {
			if r.Body.Event != "" { // an explanation tells what the arguments were
				if err := c.Refuse(rest.Inspect); err != nil {
					return nil, err
				}
			}
			x, err := s.explain(ctx, r.Body.Event, r.Body.Case)
			return &x, err
		})
	s.historyRoutes(api, path)
}

// historyRoutes declares what is asked of recorded calls.
func (s *Service) historyRoutes(api *rest.API, path string) {
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/synth", Summary: "Write the least that would have allowed what an agent did", Tag: tag, Need: rest.Inspect},
		func(ctx context.Context, c rest.Caller, r *synthRequest) (*Synthesis, error) {
			b := r.Body
			x, err := s.Synth(ctx, actor(c), b.Agent, Window{Since: b.Since, Until: b.Until, Most: b.Most})
			return &x, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/lint", Summary: "Look for what is probably not meant in policies and grants", Tag: tag, Need: rest.Read},
		func(ctx context.Context, _ rest.Caller, r *lintRequest) (*lintAnswer, error) {
			t := Trial{Files: map[string]string{}}
			for _, f := range r.Body.Files {
				t.Files[f.Name] = f.Text
			}
			found, err := s.Lint(ctx, t, r.Body.Since)
			return &lintAnswer{found}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/backtest", Summary: "Decide recorded calls again under changed policies, a part at a time, without changing anything", Tag: tag, Need: rest.Inspect},
		func(ctx context.Context, c rest.Caller, r *backtestRequest) (*Backtest, error) {
			b, err := s.Backtest(ctx, actor(c), r.trial(), r.window())
			return &b, err
		})
}

type synthRequest struct {
	Body struct {
		Agent string    `json:"agent" maxLength:"256"`
		Since time.Time `json:"since,omitzero" required:"false" doc:"of calls from then on"`
		Until time.Time `json:"until,omitzero" required:"false" doc:"of calls before then"`
		Most  int       `json:"most,omitempty" minimum:"0" maximum:"1000000" doc:"of the newest so many; 200,000 if absent"`
	}
}

type lintRequest struct {
	Body struct {
		Files []namedText `json:"files,omitempty" doc:"in place of the saved files of these names, and only they are looked at; all that is saved if there are none"`
		Since time.Time   `json:"since,omitzero" required:"false" doc:"find what determined no call since then"`
	}
}

type lintAnswer struct {
	Found []Lint `json:"found"`
}

type trialGrant struct {
	Name       string    `json:"name" maxLength:"100"`
	Agent      string    `json:"agent"`
	Connection string    `json:"connection"`
	Tools      []string  `json:"tools"`
	When       string    `json:"when,omitempty"`
	Expires    time.Time `json:"expires,omitzero" required:"false"`
}

type backtestRequest struct {
	Body struct {
		Files   []namedText  `json:"files,omitempty" doc:"in place of the saved files of these names; an empty text leaves one out"`
		Grants  []trialGrant `json:"grants,omitempty" doc:"in place of the saved grants of these names"`
		Revoke  []string     `json:"revoke,omitempty" doc:"grants left out"`
		Since   time.Time    `json:"since,omitzero" required:"false" doc:"calls from then on"`
		Until   time.Time    `json:"until,omitzero" required:"false" doc:"calls before then"`
		Agent   string       `json:"agent,omitempty" maxLength:"256" doc:"calls of this agent alone"`
		After   string       `json:"after,omitempty" maxLength:"64" doc:"next of the part before"`
		Version string       `json:"version,omitempty" maxLength:"64" doc:"version of the part before; the first has none"`
		Most    int          `json:"most,omitempty" minimum:"0" maximum:"100000" doc:"calls looked at in this part; 20,000 if absent"`
	}
}

func (r *backtestRequest) trial() Trial {
	t := Trial{Files: map[string]string{}, Revoke: r.Body.Revoke}
	for _, f := range r.Body.Files {
		t.Files[f.Name] = f.Text
	}
	for _, g := range r.Body.Grants {
		t.Grants = append(t.Grants, Grant{Name: g.Name, Agent: g.Agent, Connection: g.Connection, Tools: g.Tools, When: g.When, Expires: g.Expires})
	}
	return t
}

func (r *backtestRequest) window() Window {
	b := r.Body
	return Window{Since: b.Since, Until: b.Until, Agent: b.Agent, After: b.After, Version: b.Version, Most: b.Most}
}

func (s *Service) explain(ctx context.Context, event string, c *Case) (Explanation, error) {
	switch {
	case event != "":
		return s.WhyEvent(ctx, event)
	case c == nil:
		return Explanation{}, ErrCase.Say("name an event or describe a call")
	}
	req, err := c.request(s.o.Agents, s.o.Now())
	if err != nil {
		return Explanation{}, ErrCase.Say("%s", err.Error())
	}
	return s.Why(req)
}

// WhyEvent explains a call that was recorded, by the policies of today: the
// decision of then is in the event.
func (s *Service) WhyEvent(ctx context.Context, event string) (Explanation, error) {
	rec, err := s.log.Get(ctx, event)
	if err != nil {
		return Explanation{}, err
	}
	ev := rec.Event
	if ev.Connection == "" || ev.Tool == "" || ev.Agent == "" {
		return Explanation{}, ErrNoEvent
	}
	_, had := rec.Payloads[arguments]
	x, err := s.Why(s.recorded(&rec)[0])
	x.Notes = append(x.Notes, recordedNotes(ev, had)...)
	return x, err
}

// recordedNotes says in what an explanation of a recorded call may differ from
// the decision of then.
func recordedNotes(ev audit.Event, args bool) []string {
	notes := []string{"decided by the policies, the agent's labels and the person's groups of today; the run's age and calls and the kind of credential are not recorded"}
	if !args {
		for _, c := range ev.Payloads {
			if c.Name == arguments {
				notes = append(notes, "the arguments were erased from the log")
			}
		}
		return notes
	}
	return append(notes, "the arguments are as recorded: secrets in them were replaced, and long ones cut")
}
