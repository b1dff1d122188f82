package reach

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// usualDays is of how many days use is counted if nobody says.
const usualDays = 30

type showRequest struct {
	Name string `path:"name" maxLength:"63"`
	Days int    `query:"days" minimum:"0" maximum:"3650" doc:"of how many days use is counted; 30 if empty"`
}

// Routes declares the room's operation. It is a POST, and for who may refresh the
// connection: the upstream is asked with its credential.
func (s *Service) Routes(api *rest.API) {
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/connections/{name}/reach", Summary: "Ask the upstream what the connection's own credential can reach, and show what was used", Tag: "connections", Need: rest.Own, Of: "connection/{name}"},
		func(ctx context.Context, c rest.Caller, r *showRequest) (*Reach, error) {
			days := r.Days
			if days == 0 {
				days = usualDays
			}
			found, err := s.Show(ctx, audit.Person(c.ID, c.Name), r.Name, days)
			return &found, err
		})
}
