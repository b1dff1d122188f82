package tokens

import (
	"context"
	"encoding/json/jsontext"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

const (
	tag     = "tokens"
	ofAgent = "agent/{name}" // an operation on an agent, for its owner
)

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	s.ruleRoutes(api)
	s.clientKeyRoutes(api)
	s.enrolmentRoutes(api)
	s.clientRoutes(api)
	s.sessionRoutes(api)
	s.signingRoutes(api)
}

func actor(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

// reasonOf prefers the reason in the body to the one in the header.
func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

// duration reads "12h", "90m" or "30d"; empty is zero.
func duration(field, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var whole int
		if whole, err = strconv.Atoi(n); err == nil && whole > 3650 {
			whole = 3650
		}
		d = time.Duration(whole) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, ErrInvalid.Say("%s must be a duration such as 12h or 30d", field)
	}
	return d, nil
}

type byName struct {
	Name string `path:"name" maxLength:"63"`
}

type deletion struct {
	Name   string `path:"name" maxLength:"63"`
	Reason string `query:"reason" doc:"why; else the header X-Countersign-Reason"`
}

// ruleRow is a trust rule as the API shows it.
type ruleRow struct {
	Rule
	RunLife string `json:"run_life" doc:"the longest a run may live that was begun by it"`
}

func rowOf(r Rule) ruleRow { return ruleRow{r, r.RunLife.String()} }

type putRule struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Agent    string            `json:"agent"`
		Issuer   string            `json:"issuer"`
		Audience string            `json:"audience,omitempty"`
		Subject  string            `json:"subject"`
		Wildcard string            `json:"wildcard,omitempty"`
		User     string            `json:"user,omitempty"`
		Claims   map[string]string `json:"claims,omitempty"`
		JWKS     string            `json:"jwks,omitempty"`
		JWKSURL  string            `json:"jwks_url,omitempty"`
		CA       string            `json:"ca,omitempty"`
		Private  bool              `json:"allow_private,omitempty"`
		RunLife  string            `json:"run_life,omitempty" doc:"such as 30m; 1h if empty, at most 12h"`
		Reason   string            `json:"reason,omitempty"`
	}
}

func (s *Service) putRule(ctx context.Context, c rest.Caller, r *putRule) (*ruleRow, error) {
	life, err := duration("run_life", r.Body.RunLife)
	if err != nil {
		return nil, err
	}
	b := r.Body
	rule := Rule{Name: r.Name, Agent: b.Agent, Issuer: b.Issuer, Audience: b.Audience, Subject: b.Subject, Wildcard: b.Wildcard, User: b.User, Claims: b.Claims, JWKS: b.JWKS, JWKSURL: b.JWKSURL,
		CA: b.CA, Private: b.Private, RunLife: life}
	if _, err := s.PutRule(ctx, actor(c), reasonOf(c, b.Reason), rule); err != nil {
		return nil, err
	}
	rule, err = s.Rule(ctx, r.Name)
	row := rowOf(rule)
	return &row, err
}

func (s *Service) ruleRoutes(api *rest.API) {
	const path = "/api/v1/trust"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List the issuers that are trusted to say who an agent is", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]ruleRow, error) {
			rules, err := s.Rules(ctx)
			rows := make([]ruleRow, 0, len(rules))
			for _, r := range rules {
				rows = append(rows, rowOf(r))
			}
			return &rows, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/{name}", Summary: "Show a trust rule", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*ruleRow, error) {
			rule, err := s.Rule(ctx, r.Name)
			row := rowOf(rule)
			return &row, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: path + "/{name}", Summary: "Create or change a trust rule", Tag: tag, Need: rest.Write}, s.putRule)
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{name}", Summary: "Remove a trust rule and end what was had by it", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *deletion) (*rest.None, error) {
			return nil, s.DeleteRule(ctx, actor(c), reasonOf(c, r.Reason), r.Name)
		})
}

type keyRow struct {
	ClientKey
	Status string `json:"status" enum:"active,expired,revoked"`
}

type addKey struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		JWK       jsontext.Value `json:"jwk,omitempty" doc:"the public key (RFC 7517)"`
		JWKSURL   string         `json:"jwks_url,omitempty" doc:"or the https URL of a JWKS"`
		Label     string         `json:"label,omitempty"`
		ExpiresIn string         `json:"expires_in,omitempty" doc:"such as 30d; 90d if empty, at most 365d"`
		Reason    string         `json:"reason,omitempty"`
	}
}

type revokeKey struct {
	Name   string `path:"name" maxLength:"63"`
	ID     string `path:"id" maxLength:"64"`
	Reason string `query:"reason" doc:"why; else the header X-Countersign-Reason"`
}

func (s *Service) clientKeyRoutes(api *rest.API) {
	const path = "/api/v1/agents/{name}/client-keys"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List the public keys by which an agent proves itself", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*[]keyRow, error) {
			keys, err := s.ClientKeys(ctx, r.Name)
			rows := make([]keyRow, 0, len(keys))
			for _, k := range keys {
				rows = append(rows, keyRow{k, k.Status(s.now())})
			}
			return &rows, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path, Summary: "Register a public key of an agent", Tag: tag, Need: rest.Own, Of: ofAgent, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *addKey) (*keyRow, error) {
			life, err := duration("expires_in", r.Body.ExpiresIn)
			if err != nil {
				return nil, err
			}
			k, err := s.AddClientKey(ctx, c, reasonOf(c, r.Body.Reason), r.Name, ClientKeySpec{JWK: r.Body.JWK, JWKSURL: r.Body.JWKSURL, Label: r.Body.Label, Life: life})
			return &keyRow{k, k.Status(s.now())}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{id}", Summary: "Revoke a public key and end what was had with it", Tag: tag, Need: rest.Own, Of: ofAgent},
		func(ctx context.Context, c rest.Caller, r *revokeKey) (*rest.None, error) {
			return nil, s.RevokeClientKey(ctx, c, reasonOf(c, r.Reason), r.Name, r.ID)
		})
}

type decide struct {
	Body struct {
		Code   string `json:"code" maxLength:"20" doc:"as the machine shows it"`
		Agent  string `json:"agent,omitempty" maxLength:"63" doc:"refuse to answer if it asks to be another one"`
		Reason string `json:"reason,omitempty"`
	}
}

func (s *Service) enrolmentRoutes(api *rest.API) {
	const path = "/api/v1/enrolments"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List machines that ask, or asked, to be let in", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Enrolment, error) {
			all, err := s.Enrolments(ctx)
			return &all, err
		})
	for _, v := range []struct {
		verb, summary string
		approve       bool
	}{{"approve", "Let a machine in as the agent it asks to be", true}, {"deny", "Turn a machine away", false}} {
		rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/" + v.verb, Summary: v.summary, Tag: tag, Need: rest.Self},
			func(ctx context.Context, c rest.Caller, r *decide) (*Enrolment, error) {
				e, err := s.Decide(ctx, c, reasonOf(c, r.Body.Reason), r.Body.Code, r.Body.Agent, v.approve)
				return &e, err
			})
	}
}

type addClient struct {
	Body struct {
		ClientID  string   `json:"client_id" doc:"a name, or the URL of its metadata document"`
		Name      string   `json:"name,omitempty"`
		Agent     string   `json:"agent" doc:"the agent it acts as, for whoever consents"`
		Redirects []string `json:"redirect_uris,omitempty" doc:"needed unless its document has them"`
		Reason    string   `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

type removeClient struct {
	ID     string `path:"id" maxLength:"64"`
	Reason string `query:"reason" doc:"why; else the header X-Countersign-Reason"`
}

func (s *Service) clientRoutes(api *rest.API) {
	const path = "/api/v1/oauth-clients"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List programs that people may let act as an agent", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]OAuthClient, error) {
			all, err := s.OAuthClients(ctx)
			return &all, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path, Summary: "Let every user delegate to an agent through a program", Tag: tag, Need: rest.Write, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *addClient) (*OAuthClient, error) {
			x, err := s.AddOAuthClient(ctx, actor(c), reasonOf(c, r.Body.Reason), OAuthClient{ClientID: r.Body.ClientID, Name: r.Body.Name, Agent: r.Body.Agent, Redirects: r.Body.Redirects})
			return &x, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{id}", Summary: "Remove a program and end what people let it do", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *removeClient) (*rest.None, error) {
			return nil, s.RemoveOAuthClient(ctx, actor(c), reasonOf(c, r.Reason), r.ID)
		})
}

func (s *Service) sessionRoutes(api *rest.API) {
	const path = "/api/v1/consents"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List what you let programs do on your behalf", Tag: tag, Need: rest.Self},
		func(ctx context.Context, c rest.Caller, _ *struct{}) (*[]Session, error) {
			all, err := s.Sessions(ctx, c)
			return &all, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{id}", Summary: "End what you let a program do, at once", Tag: tag, Need: rest.Self},
		func(ctx context.Context, c rest.Caller, r *removeClient) (*rest.None, error) {
			return nil, s.EndSession(ctx, c, reasonOf(c, r.Reason), r.ID)
		})
}

type rotateKey struct {
	Body struct {
		AtOnce bool   `json:"at_once,omitempty" doc:"the old key leaked: end it and all it signed now"`
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

// signingRow is a signing key as the API shows it.
type signingRow struct {
	SigningKey
	Status string `json:"status" enum:"waiting,signing,published,gone"`
}

type retireKey struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"needed, here or in the header"`
	}
}

func (s *Service) signingRows(ctx context.Context) ([]signingRow, error) {
	all, err := s.SigningKeys(ctx)
	rows := make([]signingRow, 0, len(all))
	for _, k := range all {
		rows = append(rows, signingRow{k, StatusOf(all, k, s.now())})
	}
	return rows, err
}

func (s *Service) signingRoutes(api *rest.API) {
	const path = "/api/v1/signing-keys"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List the keys that sign tokens", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]signingRow, error) {
			rows, err := s.signingRows(ctx)
			return &rows, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{id}/retire", Summary: "End a signing key that does not sign, and all it signed, now", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, r *retireKey) (*rest.None, error) {
			return nil, s.RetireKey(ctx, actor(c), reasonOf(c, r.Body.Reason), r.ID)
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/rotate", Summary: "Put a new signing key in the place of the present one", Tag: tag, Need: rest.Govern, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *rotateKey) (*SigningKey, error) {
			k, err := s.RotateKey(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Body.AtOnce)
			return &k, err
		})
}
