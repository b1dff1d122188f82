package secrets

import (
	"context"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// Row is a secret in a listing. Its value never leaves.
type Row struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Owner      string    `json:"owner"`
	Connection string    `json:"connection"`
	Hosts      []string  `json:"hosts" doc:"where it may be sent; none: wherever its connection points"`
	Version    int64     `json:"version"`
	Created    time.Time `json:"created"`
	Rotated    time.Time `json:"rotated" doc:"when the present value was put"`
	AgeDays    int       `json:"age_days" doc:"of the present value"`
	LastUsed   time.Time `json:"last_used,omitzero"`
	Broken     bool      `json:"broken,omitempty" doc:"it cannot be opened and must be put again"`
}

func (s *Service) row(sec Secret) Row {
	return Row{
		ID: sec.ID, Name: sec.Name, Owner: sec.Owner, Connection: sec.Connection, Hosts: append([]string{}, sec.Hosts...), Version: sec.Version,
		Created: sec.Created, Rotated: sec.Rotated, AgeDays: int(s.now().Sub(sec.Rotated) / (24 * time.Hour)), LastUsed: sec.LastUsed, Broken: sec.Broken,
	}
}

type putRequest struct {
	Name string `path:"name"`
	Body struct {
		Value      string   `json:"value,omitempty" doc:"8 bytes to 64 KiB; without it the stored value is kept"`
		Owner      string   `json:"owner" doc:"name of the user who answers for it"`
		Connection string   `json:"connection" doc:"the only connection it is used for"`
		Hosts      []string `json:"hosts,omitempty" doc:"HOST or HOST:PORT it may be sent to; none: wherever its connection points"`
	}
}

// Changed says whether a change was one.
type Changed struct {
	Changed bool `json:"changed"`
	Secret  Row  `json:"secret"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/secrets", Summary: "List secrets, without values", Tag: "secrets"}, s.httpList)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/secrets/{name}", Summary: "Show a secret, without its value", Tag: "secrets"}, s.httpGet)
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: "/api/v1/secrets/{name}", Summary: "Create, rotate or change a secret", Tag: "secrets", Need: rest.Write}, s.httpPut)
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: "/api/v1/secrets/{name}", Summary: "Delete a secret", Tag: "secrets", Need: rest.Write}, s.httpDelete)
}

func (s *Service) httpList(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Row, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	rows := make([]Row, 0, len(all))
	for _, sec := range all {
		rows = append(rows, s.row(sec))
	}
	return &rows, nil
}

type byName struct {
	Name string `path:"name"`
}

func (s *Service) httpGet(ctx context.Context, _ rest.Caller, r *byName) (*Row, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, sec := range all {
		if sec.Name == r.Name {
			row := s.row(sec)
			return &row, nil
		}
	}
	return nil, ErrNotFound.Say("there is no secret %.63q", r.Name)
}

func (s *Service) httpPut(ctx context.Context, c rest.Caller, r *putRequest) (*Changed, error) {
	spec := Spec{Name: r.Name, Owner: r.Body.Owner, Connection: r.Body.Connection, Hosts: r.Body.Hosts}
	v := NewValue([]byte(r.Body.Value))
	defer v.Wipe()
	changed, err := s.Put(ctx, audit.Person(c.ID, c.Name), c.Reason, spec, v)
	if err != nil {
		return nil, err
	}
	row, err := s.httpGet(ctx, c, &byName{r.Name})
	if err != nil {
		return nil, err
	}
	return &Changed{changed, *row}, nil
}

func (s *Service) httpDelete(ctx context.Context, c rest.Caller, r *byName) (*rest.None, error) {
	return nil, s.Delete(ctx, audit.Person(c.ID, c.Name), c.Reason, r.Name)
}
