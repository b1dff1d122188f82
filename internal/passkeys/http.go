package passkeys

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// Row is a passkey in a listing.
type Row struct {
	ID       string    `json:"id"`
	User     string    `json:"user"`
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

// RegistrationView is what a browser needs to make a passkey.
type RegistrationView struct {
	Challenge  string   `json:"challenge" doc:"base64url; good once, for two minutes, in this session"`
	RP         string   `json:"rp_id" doc:"the domain that the passkey is for"`
	Origin     string   `json:"origin" doc:"the only origin whose pages may ask for it"`
	UserID     string   `json:"user_id" doc:"base64url"`
	User       string   `json:"user"`
	Exclude    []string `json:"exclude" doc:"credentials of the person's passkeys, base64url"`
	Algorithms []int64  `json:"algorithms" doc:"COSE identifiers, the best first"`
}

type listRequest struct {
	User string `query:"user" maxLength:"63" doc:"another user, for administrators; yourself if empty"`
}

type registerRequest struct {
	Body struct {
		Name       string `json:"name" maxLength:"240" doc:"where it is, such as: laptop"`
		Credential string `json:"credential" maxLength:"16384" doc:"what the browser made, as JSON text (PublicKeyCredential.toJSON)"`
	}
}

type renameRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Name string `json:"name" maxLength:"240"`
	}
}

type removeRequest struct {
	ID     string `path:"id" maxLength:"64"`
	Reason string `query:"reason"`
}

func rowOf(p Passkey) *Row { return &Row{p.ID, p.User, p.Name, p.Created, p.LastUsed} }

func actor(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	op := func(method, path, summary string) rest.Op {
		return rest.Op{Method: method, Path: "/api/v1/passkeys" + path, Summary: summary, Tag: "identity", Need: rest.Self}
	}
	rest.Handle(api, op(http.MethodGet, "", "List your passkeys"), s.httpList)
	rest.Handle(api, op(http.MethodPost, "/challenge", "Begin to register a passkey"), s.httpBegin)
	add := op(http.MethodPost, "", "Register a passkey of your own")
	add.Status = http.StatusCreated
	rest.Handle(api, add, func(ctx context.Context, c rest.Caller, r *registerRequest) (*Row, error) {
		p, err := s.Register(ctx, actor(c), c.Credential, r.Body.Name, []byte(r.Body.Credential))
		return rowOf(p), err
	})
	rest.Handle(api, op(http.MethodPut, "/{id}", "Rename a passkey of your own"), func(ctx context.Context, c rest.Caller, r *renameRequest) (*Row, error) {
		p, err := s.Rename(ctx, actor(c), r.ID, r.Body.Name)
		return rowOf(p), err
	})
	rest.Handle(api, op(http.MethodDelete, "/{id}", "Remove a passkey at once; administrators, anyone's"), func(ctx context.Context, c rest.Caller, r *removeRequest) (*rest.None, error) {
		if r.Reason == "" {
			r.Reason = c.Reason
		}
		return nil, s.Remove(ctx, actor(c), r.Reason, r.ID)
	})
}

func (s *Service) httpList(ctx context.Context, c rest.Caller, r *listRequest) (*[]Row, error) {
	user := c.Name
	if r.User != "" && r.User != c.Name {
		if err := c.Refuse(rest.Govern); err != nil {
			return nil, err
		}
		user = r.User
	}
	found, err := s.Of(ctx, user)
	out := make([]Row, 0, len(found))
	for _, p := range found {
		out = append(out, *rowOf(p))
	}
	return &out, err
}

func (s *Service) httpBegin(ctx context.Context, c rest.Caller, _ *struct{}) (*RegistrationView, error) {
	r, err := s.Begin(ctx, actor(c), c.Credential)
	if err != nil {
		return nil, err
	}
	return &RegistrationView{text(r.Challenge), r.Domain, r.Origin, base64.RawURLEncoding.EncodeToString([]byte(c.ID)), c.Name, r.Exclude, r.Algorithms}, nil
}
