package reviews

import (
	"context"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type startRequest struct {
	Body struct {
		Name   string    `json:"name,omitempty" maxLength:"100" doc:"its identifier if empty"`
		Scope  Scope     `json:"scope,omitzero" required:"false"`
		Rules  Rules     `json:"rules,omitzero" required:"false"`
		Due    time.Time `json:"due,omitzero" required:"false" doc:"in 14 days if absent"`
		Reason string    `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type listRequest struct {
	Questions bool `query:"questions" doc:"small reviews that were asked because something changed, too"`
}

type byReview struct {
	Review string `path:"review" maxLength:"100" doc:"name or identifier"`
}

type decideRequest struct {
	Review string `path:"review" maxLength:"100"`
	N      int    `path:"n" minimum:"1"`
	Body   struct {
		Decision string `json:"decision" enum:"keep,revoke"`
		To       string `json:"to,omitempty" maxLength:"63" doc:"of an owner that is revoked: who is to be the next; the backup if absent"`
		Reason   string `json:"reason,omitempty" doc:"needed to keep, here or in the header"`
	}
}

type delegateRequest struct {
	Review string `path:"review" maxLength:"100"`
	N      int    `path:"n" minimum:"1"`
	Body   struct {
		To   string `json:"to" maxLength:"63"`
		Note string `json:"note,omitempty" doc:"needed, here or in the header"`
	}
}

type reasoned struct {
	Review string `path:"review" maxLength:"100"`
	Body   struct {
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

type askRequest struct {
	Body struct {
		Wish
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type requestsRequest struct {
	Agent string `query:"agent" maxLength:"63"`
	All   bool   `query:"all" doc:"what is over, too"`
}

type byID struct {
	ID string `path:"id" maxLength:"64"`
}

type approversRequest struct {
	Connection string `path:"connection" maxLength:"63" doc:"* for every connection that has none of its own"`
	Body       struct {
		Groups  []string `json:"groups"`
		Quorum  int      `json:"quorum,omitempty"`
		Longest string   `json:"longest,omitempty"`
		Apart   bool     `json:"apart,omitempty"`
		Passkey bool     `json:"passkey,omitempty"`
	}
}

type exceptionRequest struct {
	Name string `path:"name" maxLength:"100"`
	Body struct {
		Owner      string    `json:"owner" maxLength:"63" doc:"who answers for it"`
		Until      time.Time `json:"until"`
		Reason     string    `json:"reason,omitempty" doc:"needed, here or in the header"`
		Agent      string    `json:"agent,omitempty" maxLength:"256" doc:"for a grant that is still to be given, with connection and tools; absent: what the grant gives"`
		Connection string    `json:"connection,omitempty" maxLength:"256"`
		Tools      []string  `json:"tools,omitempty" required:"false"`
		When       string    `json:"when,omitempty"`
	}
}

type byConnection struct {
	Connection string `path:"connection" maxLength:"63"`
}

// wishRoutes are those of grants that are asked for.
func (s *Service) wishRoutes(api *rest.API) {
	const path, who, tag = "/api/v1/grant-requests", "/api/v1/grant-approvers", "reviews"
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path, Summary: "Ask people to give an agent a grant for a time", Tag: tag, Need: rest.Decide, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, q *askRequest) (*GrantRequest, error) {
			g, err := s.Ask(ctx, asker(c), reasonOf(c, q.Body.Reason), q.Body.Wish)
			return &g, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List grants that were asked for, the latest first", Tag: tag},
		func(ctx context.Context, _ rest.Caller, q *requestsRequest) (*[]GrantRequest, error) {
			found, err := s.Requests(ctx, q.Agent, !q.All)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{id}", Summary: "Show a grant that was asked for", Tag: tag},
		func(ctx context.Context, _ rest.Caller, q *byID) (*GrantRequest, error) {
			g, err := s.request(ctx, q.ID)
			return &g, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: who, Summary: "List who approves grants that are asked for", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Approvers, error) {
			found, err := s.Approvers(ctx)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: who + "/{connection}", Summary: "Say who approves grants of a connection", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, q *approversRequest) (*Approvers, error) {
			b := q.Body
			a, err := s.SetApprovers(ctx, audit.Person(c.ID, c.Name), c.Reason, Approvers{Connection: q.Connection, Groups: b.Groups, Quorum: b.Quorum, Longest: b.Longest, Apart: b.Apart, Passkey: b.Passkey})
			return &a, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: who + "/{connection}", Summary: "Have nobody approve grants of a connection", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, q *byConnection) (*rest.None, error) {
			return nil, s.RemoveApprovers(ctx, audit.Person(c.ID, c.Name), c.Reason, q.Connection)
		})
}

// exceptionRoutes are those of rights that may stand.
func (s *Service) exceptionRoutes(api *rest.API) {
	const path, tag = "/api/v1/grant-exceptions", "reviews"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List exceptions for grants that stand without an end", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Exception, error) {
			found, err := s.Exceptions(ctx)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: "/api/v1/grants/{name}/exception", Summary: "Say who answers for a grant that stands without an end, why and until when", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, q *exceptionRequest) (*Exception, error) {
			e, err := s.Except(ctx, audit.Person(c.ID, c.Name), reasonOf(c, q.Body.Reason),
				Exception{Grant: q.Name, Agent: q.Body.Agent, Connection: q.Body.Connection, Tools: q.Body.Tools, When: q.Body.When, Owner: q.Body.Owner, Until: q.Body.Until})
			return &e, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{id}", Summary: "End an exception before its time", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, q *byID) (*rest.None, error) {
			return nil, s.EndException(ctx, audit.Person(c.ID, c.Name), c.Reason, q.ID)
		})
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	s.wishRoutes(api)
	s.exceptionRoutes(api)
	const path, tag = "/api/v1/reviews", "reviews"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List reviews, the latest first, without their items", Tag: tag},
		func(ctx context.Context, _ rest.Caller, q *listRequest) (*[]Review, error) {
			found, err := s.List(ctx, q.Questions)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path, Summary: "Start a review of what was given", Tag: tag, Need: rest.Write, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, q *startRequest) (*Review, error) {
			b := q.Body
			r, err := s.Begin(ctx, audit.Person(c.ID, c.Name), reasonOf(c, b.Reason), Review{Name: b.Name, Scope: b.Scope, Rules: b.Rules, Due: b.Due})
			return &r, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/mine", Summary: "List what waits for your decision", Tag: tag, Need: rest.Decide},
		func(ctx context.Context, c rest.Caller, _ *struct{}) (*[]Waits, error) {
			found, err := s.Mine(ctx, Person{c.ID, c.Name})
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{review}", Summary: "Show a review with its items", Tag: tag},
		func(ctx context.Context, _ rest.Caller, q *byReview) (*Review, error) {
			r, err := s.Get(ctx, q.Review)
			return &r, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{review}/items/{n}/decide", Summary: "Keep or revoke one thing", Tag: tag, Need: rest.Decide},
		func(ctx context.Context, c rest.Caller, q *decideRequest) (*Item, error) {
			it, err := s.Decide(ctx, c, q.Review, q.N, Answer{Decision: q.Body.Decision, Reason: reasonOf(c, q.Body.Reason), To: q.Body.To})
			return &it, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{review}/items/{n}/delegate", Summary: "Hand an item to another reviewer, with a note", Tag: tag, Need: rest.Decide},
		func(ctx context.Context, c rest.Caller, q *delegateRequest) (*Item, error) {
			it, err := s.Delegate(ctx, c, q.Review, q.N, q.Body.To, reasonOf(c, q.Body.Note))
			return &it, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{review}/close", Summary: "End a review before its time: what is open is decided as was said at its start", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, q *reasoned) (*Review, error) {
			r, err := s.Close(ctx, audit.Person(c.ID, c.Name), reasonOf(c, q.Body.Reason), q.Review)
			return &r, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{review}/export", Summary: "Export a review with proofs of every event of it", Tag: tag, Need: rest.Inspect},
		func(ctx context.Context, c rest.Caller, q *reasoned) (*Exported, error) {
			x, err := s.Export(ctx, audit.Person(c.ID, c.Name), reasonOf(c, q.Body.Reason), q.Review)
			return &x, err
		})
}
