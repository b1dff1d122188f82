package identity

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/rest"
)

type login struct {
	Body struct {
		Name     string `json:"name" maxLength:"63"`
		Password string `json:"password" maxLength:"1024"`
	}
}

type loggedIn struct {
	Token   string    `json:"token" doc:"a user token (csu_…), shown this once"`
	Expires time.Time `json:"expires"`
	User    User      `json:"user"`
}

type me struct {
	User
	Write bool     `json:"write" doc:"whether the role may change things"`
	May   []string `json:"may" doc:"what the role may do (docs/roles.md)"`
}

type tokenRow struct {
	ID       string    `json:"id"`
	User     string    `json:"user"`
	Kind     string    `json:"kind" enum:"session,api,start"`
	Name     string    `json:"name"`
	Prefix   string    `json:"prefix"`
	Status   string    `json:"status" enum:"active,expired,revoked"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	LastUsed time.Time `json:"last_used,omitzero"`
	Present  bool      `json:"present" doc:"the token of this request"`
}

type issuedToken struct {
	tokenRow
	Token string `json:"token" doc:"the token itself, shown this once"`
}

type issueToken struct {
	Body struct {
		Name      string `json:"name" doc:"what it is for"`
		ExpiresIn string `json:"expires_in,omitempty" doc:"such as 12h or 30d; 30d if empty, at most 90d"`
		Reason    string `json:"reason,omitempty"`
	}
}

type listTokens struct {
	User string `query:"user" doc:"another user, for administrators; yourself if empty"`
}

type signOut struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		All    bool   `json:"all,omitempty" doc:"API tokens too, not sessions alone"`
		Reason string `json:"reason,omitempty"`
	}
}

type signedOut struct {
	Ended int `json:"ended" doc:"sessions and tokens that ended"`
}

type revokeToken struct {
	ID     string `path:"id" maxLength:"64"`
	Reason string `query:"reason"`
}

func meOf(u User) *me {
	m := me{User: u, Write: u.May(rest.Write), May: []string{}}
	for _, n := range rest.Needs {
		if u.May(n) {
			m.May = append(m.May, n.String())
		}
	}
	return &m
}

func (s *Service) tokenRow(c rest.Caller, t Token) tokenRow {
	return tokenRow{ID: t.ID, User: t.User, Kind: t.Kind, Name: t.Name, Prefix: t.Prefix, Status: t.Status(s.now()), Created: t.Created,
		Expires: t.Expires, LastUsed: t.LastUsed, Present: t.ID == c.Credential}
}

func (s *Service) login(ctx context.Context, c rest.Caller, r *login) (*loggedIn, error) {
	t, value, err := s.Login(ctx, r.Body.Name, r.Body.Password, c.Remote)
	if err != nil {
		return nil, err
	}
	u, err := readUser(ctx, s.db, t.User)
	return &loggedIn{Token: value, Expires: t.Expires, User: u}, err
}

func (s *Service) tokens(ctx context.Context, c rest.Caller, r *listTokens) (*[]tokenRow, error) {
	user := c.Name
	if r.User != "" && r.User != c.Name {
		if err := mayGovern(ctx, s.db, actor(c)); err != nil {
			return nil, err
		}
		user = r.User
	}
	found, err := s.Tokens(ctx, user)
	rows := make([]tokenRow, 0, len(found))
	for _, t := range found {
		rows = append(rows, s.tokenRow(c, t))
	}
	return &rows, err
}

func (s *Service) sessionRoutes(api *rest.API) {
	const tag = "identity"
	rest.Handle(api, rest.Op{Method: "POST", Path: "/api/v1/login", Summary: "Sign in with a password", Tag: tag, Need: rest.Public}, s.login)
	rest.Handle(api, rest.Op{Method: "POST", Path: "/api/v1/logout", Summary: "End the session of this request", Tag: tag, Need: rest.Self},
		func(ctx context.Context, c rest.Caller, _ *struct{}) (*rest.None, error) {
			return nil, s.Logout(ctx, actor(c), c.Credential)
		})
	rest.Handle(api, rest.Op{Method: "GET", Path: "/api/v1/me", Summary: "Show who you are", Tag: tag, Need: rest.Self},
		func(ctx context.Context, c rest.Caller, _ *struct{}) (*me, error) {
			u, err := readUser(ctx, s.db, c.Name)
			return meOf(u), err
		})
	rest.Handle(api, rest.Op{Method: "GET", Path: "/api/v1/tokens", Summary: "List your sessions and API tokens", Tag: tag, Need: rest.Self}, s.tokens)
	rest.Handle(api, rest.Op{Method: "POST", Path: "/api/v1/tokens", Summary: "Make an API token of your own", Tag: tag, Need: rest.Self, Status: created},
		func(ctx context.Context, c rest.Caller, r *issueToken) (*issuedToken, error) {
			life, err := duration("expires_in", r.Body.ExpiresIn)
			if err != nil {
				return nil, err
			}
			t, value, err := s.IssueToken(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Body.Name, life)
			return &issuedToken{s.tokenRow(c, t), value}, err
		})
	rest.Handle(api, rest.Op{Method: "DELETE", Path: "/api/v1/tokens/{id}", Summary: "Revoke a session or API token at once", Tag: tag, Need: rest.Self},
		func(ctx context.Context, c rest.Caller, r *revokeToken) (*rest.None, error) {
			return nil, s.RevokeToken(ctx, actor(c), reasonOf(c, r.Reason), r.ID)
		})
}

type putUser struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Email       string `json:"email,omitempty"`
		DisplayName string `json:"display_name,omitempty"`
		Role        string `json:"role" enum:"admin,operator,owner,approver,auditor,viewer"`
		Disabled    bool   `json:"disabled,omitempty"`
		Reason      string `json:"reason,omitempty"`
	}
}

type setPassword struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Current  string `json:"current,omitempty" maxLength:"1024" doc:"needed when you change your own"`
		Password string `json:"password" maxLength:"1024" doc:"at least 12 bytes"`
		Reason   string `json:"reason,omitempty"`
	}
}

type putTeam struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Description string   `json:"description,omitempty"`
		Members     []string `json:"members,omitempty" doc:"all of them: who is not named leaves"`
		Reason      string   `json:"reason,omitempty"`
	}
}

func (s *Service) peopleRoutes(api *rest.API) {
	const users, tag = "/api/v1/users", "identity"
	rest.Handle(api, rest.Op{Method: "GET", Path: users, Summary: "List users", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]User, error) {
			found, err := readUsers(ctx, s.db, "")
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: "GET", Path: users + "/{name}", Summary: "Show a user", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*User, error) {
			u, err := readUser(ctx, s.db, r.Name)
			return &u, err
		})
	rest.Handle(api, rest.Op{Method: "PUT", Path: users + "/{name}", Summary: "Create or update a user", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, r *putUser) (*User, error) {
			u := User{Name: r.Name, Email: r.Body.Email, DisplayName: r.Body.DisplayName, Role: r.Body.Role, Disabled: r.Body.Disabled}
			if _, err := s.PutUser(ctx, actor(c), reasonOf(c, r.Body.Reason), u); err != nil {
				return nil, err
			}
			u, err := readUser(ctx, s.db, r.Name)
			return &u, err
		})
	rest.Handle(api, rest.Op{Method: "PUT", Path: users + "/{name}/password", Summary: "Set a password and end the sessions", Tag: tag, Need: rest.Self},
		func(ctx context.Context, c rest.Caller, r *setPassword) (*rest.None, error) {
			return nil, s.SetPassword(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Name, r.Body.Current, r.Body.Password)
		})
	rest.Handle(api, rest.Op{Method: "POST", Path: users + "/{name}/sign-out", Summary: "End every session of a user, everywhere", Tag: tag, Need: rest.Self},
		func(ctx context.Context, c rest.Caller, r *signOut) (*signedOut, error) {
			n, err := s.SignOut(ctx, actor(c), reasonOf(c, r.Body.Reason), r.Name, r.Body.All)
			return &signedOut{n}, err
		})
	rest.Handle(api, rest.Op{Method: "DELETE", Path: users + "/{name}", Summary: "Delete a user who owns nothing", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, r *deletion) (*rest.None, error) {
			return nil, s.DeleteUser(ctx, actor(c), reasonOf(c, r.Reason), r.Name)
		})
	s.teamRoutes(api)
	s.groupRoutes(api)
}

func (s *Service) teamRoutes(api *rest.API) {
	const teams, tag = "/api/v1/teams", "identity"
	rest.Handle(api, rest.Op{Method: "GET", Path: teams, Summary: "List teams", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Team, error) {
			found, err := readTeams(ctx, s.db, "")
			if found == nil {
				found = []Team{}
			}
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: "GET", Path: teams + "/{name}", Summary: "Show a team", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*Team, error) {
			t, err := readTeam(ctx, s.db, r.Name)
			return &t, err
		})
	rest.Handle(api, rest.Op{Method: "PUT", Path: teams + "/{name}", Summary: "Create or update a team", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *putTeam) (*Team, error) {
			t := Team{Name: r.Name, Description: r.Body.Description, Members: r.Body.Members}
			if _, err := s.PutTeam(ctx, actor(c), reasonOf(c, r.Body.Reason), t); err != nil {
				return nil, err
			}
			t, err := readTeam(ctx, s.db, r.Name)
			return &t, err
		})
	rest.Handle(api, rest.Op{Method: "DELETE", Path: teams + "/{name}", Summary: "Delete a team without agents", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *deletion) (*rest.None, error) {
			return nil, s.DeleteTeam(ctx, actor(c), reasonOf(c, r.Reason), r.Name)
		})
}
