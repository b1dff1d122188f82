package identity

import (
	"context"

	"github.com/countersign/countersign/internal/rest"
)

type putGroup struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Description string   `json:"description,omitempty"`
		Members     []string `json:"members,omitempty" doc:"all of them: who is not named leaves"`
		Reason      string   `json:"reason,omitempty"`
	}
}

func (s *Service) groupRoutes(api *rest.API) {
	const groups, tag = "/api/v1/groups", "identity"
	rest.Handle(api, rest.Op{Method: "GET", Path: groups, Summary: "List groups", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Group, error) {
			found, err := readGroups(ctx, s.db, "")
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: "GET", Path: groups + "/{name}", Summary: "Show a group", Tag: tag},
		func(ctx context.Context, _ rest.Caller, r *byName) (*Group, error) {
			g, err := readGroup(ctx, s.db, r.Name)
			return &g, err
		})
	rest.Handle(api, rest.Op{Method: "PUT", Path: groups + "/{name}", Summary: "Create or update a group", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, r *putGroup) (*Group, error) {
			g := Group{Name: r.Name, Description: r.Body.Description, Members: r.Body.Members}
			if _, err := s.PutGroup(ctx, actor(c), reasonOf(c, r.Body.Reason), g); err != nil {
				return nil, err
			}
			g, err := readGroup(ctx, s.db, r.Name)
			return &g, err
		})
	rest.Handle(api, rest.Op{Method: "DELETE", Path: groups + "/{name}", Summary: "Delete a group", Tag: tag, Need: rest.Govern},
		func(ctx context.Context, c rest.Caller, r *deletion) (*rest.None, error) {
			return nil, s.DeleteGroup(ctx, actor(c), reasonOf(c, r.Reason), r.Name)
		})
}

// Owns reports whether the person called user owns an agent ("agent/NAME") or
// the agent of a run ("run/ID"). It is a rest.Owns for what this room knows.
func (s *Service) Owns(ctx context.Context, user, kind, name string) (bool, error) {
	if kind == "run" {
		r, err := readRun(ctx, s.db, name)
		if err != nil {
			return false, err
		}
		name = r.Agent
	}
	a, err := readAgent(ctx, s.db, name)
	return err == nil && user != "" && (a.Owner == user || a.Backup == user), err
}

// KnowsCredential reports whether there is, or was, a key or run token with an
// identifier.
func (s *Service) KnowsCredential(ctx context.Context, credential string) (bool, error) {
	found, err := readNames(ctx, s.db, `SELECT id FROM agent_keys WHERE id = $1 UNION SELECT credential FROM agent_runs WHERE credential = $1`, credential)
	return len(found) > 0, err
}
