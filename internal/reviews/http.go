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

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
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
}
