package secrets

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// Row is a secret in a listing. Its value never leaves.
type Row struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Owner      string            `json:"owner"`
	Connection string            `json:"connection"`
	Hosts      []string          `json:"hosts" doc:"where it may be sent; none: wherever its connection points"`
	Kind       string            `json:"kind" doc:"value: it is sent as it is; else what is made of it"`
	Settings   map[string]string `json:"settings,omitempty"`
	Source     string            `json:"source,omitempty" doc:"where its value is kept; empty: sealed in the store"`
	Rotation   map[string]string `json:"rotation,omitempty"`
	Version    int64             `json:"version"`
	Created    time.Time         `json:"created"`
	Rotated    time.Time         `json:"rotated" doc:"when the present value was put"`
	AgeDays    int               `json:"age_days" doc:"of the present value"`
	LastUsed   time.Time         `json:"last_used,omitzero"`
	Broken     bool              `json:"broken,omitempty" doc:"it cannot be opened and must be put again"`
	Note
}

// Note is what other parts of the house know about a secret.
type Note struct {
	LastRotation   time.Time `json:"last_rotation,omitzero" doc:"when its last rotation succeeded"`
	NextRotation   time.Time `json:"next_rotation,omitzero" doc:"when the next is due"`
	RotationStatus string    `json:"rotation_status,omitempty" doc:"of the last rotation"`
	Leases         int       `json:"leases,omitempty" doc:"credentials made of it that are alive"`
	Zombies        int       `json:"zombies,omitempty" doc:"leases that ended but could not be revoked yet"`
}

// Notes registers who knows more about secrets, by name. Each may set its own
// fields of a Note.
func (s *Service) Notes(fn func(context.Context, map[string]Note) error) {
	s.notes = append(s.notes, fn)
}

func (s *Service) noted(ctx context.Context) (map[string]Note, error) {
	all := map[string]Note{}
	for _, fn := range s.notes {
		if err := fn(ctx, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *Service) row(sec Secret, note Note) Row {
	r := Row{
		ID: sec.ID, Name: sec.Name, Owner: sec.Owner, Connection: sec.Connection, Hosts: append([]string{}, sec.Hosts...), Version: sec.Version,
		Kind: sec.Kind, Settings: sec.Settings, Source: sec.Source, Rotation: sec.Rotation, Note: note,
		Created: sec.Created, Rotated: sec.Rotated, AgeDays: int(s.now().Sub(sec.Rotated) / (24 * time.Hour)), LastUsed: sec.LastUsed, Broken: sec.Broken,
	}
	if r.Kind == KindValue {
		r.Kind = "value"
	}
	return r
}

type putRequest struct {
	Name string `path:"name"`
	Body struct {
		Value      string            `json:"value,omitempty" doc:"8 bytes to 64 KiB; without it the stored value is kept"`
		Owner      string            `json:"owner" doc:"name of the user who answers for it"`
		Connection string            `json:"connection" doc:"the only connection it is used for"`
		Hosts      []string          `json:"hosts,omitempty" doc:"HOST or HOST:PORT it may be sent to; none: wherever its connection points"`
		Kind       string            `json:"kind,omitempty" doc:"value (the default), or what is made of it"`
		Settings   map[string]string `json:"settings,omitempty" doc:"of the kind"`
		Source     string            `json:"source,omitempty" doc:"SCHEME://REST where its value is kept; empty: sealed in the store"`
		Rotation   map[string]string `json:"rotation,omitempty" doc:"by: the rotator; the rest is its"`
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
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/secrets/{name}/versions", Summary: "List the versions of a secret", Tag: "secrets"}, s.httpVersions)
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/secrets/{name}/rollback", Summary: "Make the previous version of a secret the current one", Tag: "secrets", Need: rest.Write}, s.httpRollback)
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: "/api/v1/secrets/{name}", Summary: "Delete a secret", Tag: "secrets", Need: rest.Write}, s.httpDelete)
}

func (s *Service) httpList(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Row, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	notes, err := s.noted(ctx)
	if err != nil {
		return nil, err
	}
	rows := make([]Row, 0, len(all))
	for _, sec := range all {
		rows = append(rows, s.row(sec, notes[sec.Name]))
	}
	return &rows, nil
}

type byName struct {
	Name string `path:"name"`
}

func (s *Service) httpGet(ctx context.Context, c rest.Caller, r *byName) (*Row, error) {
	rows, err := s.httpList(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	for _, row := range *rows {
		if row.Name == r.Name {
			return &row, nil
		}
	}
	return nil, ErrNotFound.Say("there is no secret %.63q", r.Name)
}

// VersionRow is a version in a listing.
type VersionRow struct {
	ID string `json:"id"`
	Version
}

func (s *Service) httpVersions(ctx context.Context, _ rest.Caller, r *byName) (*[]VersionRow, error) {
	all, err := s.Versions(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	rows := make([]VersionRow, 0, len(all))
	for _, v := range all {
		rows = append(rows, VersionRow{r.Name + "/" + strconv.FormatInt(v.Number, 10), v})
	}
	return &rows, nil
}

func (s *Service) httpRollback(ctx context.Context, c rest.Caller, r *byName) (*Row, error) {
	if err := s.Rollback(ctx, audit.Person(c.ID, c.Name), c.Reason, r.Name); err != nil {
		return nil, err
	}
	return s.httpGet(ctx, c, r)
}

func (s *Service) httpPut(ctx context.Context, c rest.Caller, r *putRequest) (*Changed, error) {
	spec := Spec{Name: r.Name, Owner: r.Body.Owner, Connection: r.Body.Connection, Hosts: r.Body.Hosts,
		Kind: r.Body.Kind, Settings: r.Body.Settings, Source: r.Body.Source, Rotation: r.Body.Rotation}
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

type rekeyRequest struct {
	Body struct {
		Again bool `json:"again,omitempty" doc:"the rekey under way goes to the next key that this replica holds now: the one before was lost"`
	}
}

// Routes declares the operations about the key.
func (r *Rekeyer) Routes(api *rest.API) {
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/keys", Summary: "Show which key seals everything, and how far its replacement is", Tag: "secrets"},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*KeyStatus, error) {
			st, err := r.Status(ctx)
			return &st, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: "/api/v1/keys/rekey", Summary: "Replace the key that seals everything", Tag: "secrets", Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, q *rekeyRequest) (*KeyStatus, error) {
			if _, err := r.Begin(ctx, audit.Person(c.ID, c.Name), c.Reason, q.Body.Again); err != nil {
				return nil, err
			}
			st, err := r.Status(ctx)
			return &st, err
		})
}
