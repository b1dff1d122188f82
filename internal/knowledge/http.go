package knowledge

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type documentPath struct {
	Name string `path:"name"`
	ID   string `query:"id" doc:"the document's id"`
}

// Routes declares the room's operations. Titles say as much as texts, so lists
// are for who answers for the connection, too.
func (s *Service) Routes(api *rest.API) {
	op := func(method, path, summary string) rest.Op {
		return rest.Op{Method: method, Path: "/api/v1/connections/{name}" + path, Summary: summary, Tag: "knowledge", Need: rest.Own, Of: "connection/{name}"}
	}
	put := op(http.MethodPut, "/documents", "Put documents into a knowledge base")
	put.MaxBody = 32 << 20
	rest.Handle(api, put, s.httpPut)
	rest.Handle(api, op(http.MethodGet, "/documents", "List the documents of a knowledge base"), s.httpList)
	rest.Handle(api, op(http.MethodGet, "/document", "Show a document of a knowledge base"), s.httpShow)
	rest.Handle(api, op(http.MethodDelete, "/document", "Remove a document from a knowledge base"), s.httpRemove)
}

func person(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

// Put says which documents changed.
type Put struct {
	Changed []string `json:"changed"`
}

func (s *Service) httpPut(ctx context.Context, c rest.Caller, r *struct {
	Name string `path:"name"`
	Body struct {
		Documents []Document `json:"documents" maxItems:"100"`
		Reason    string     `json:"reason,omitempty" doc:"or the header X-Countersign-Reason"`
	}
}) (*Put, error) {
	reason := r.Body.Reason
	if reason == "" {
		reason = c.Reason
	}
	changed, err := s.Put(ctx, person(c), reason, r.Name, r.Body.Documents)
	if err != nil {
		return nil, err
	}
	return &Put{Changed: changed}, nil
}

func (s *Service) httpList(ctx context.Context, _ rest.Caller, r *struct {
	Name string `path:"name"`
}) (*[]Document, error) {
	docs, err := s.List(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	return &docs, nil
}

func (s *Service) httpShow(ctx context.Context, _ rest.Caller, r *documentPath) (*Document, error) {
	d, err := s.Show(ctx, r.Name, r.ID)
	if err != nil {
		return nil, err
	}
	return &d, nil
}

func (s *Service) httpRemove(ctx context.Context, c rest.Caller, r *documentPath) (*rest.None, error) {
	return nil, s.Remove(ctx, person(c), c.Reason, r.Name, r.ID)
}
