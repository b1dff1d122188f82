package retrieval

import (
	"context"
	"errors"

	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/knowledge"
)

// embedded are the documents that Countersign keeps itself.
type embedded struct{ k *knowledge.Service }

func (e embedded) search(ctx context.Context, j job, a ask, visit func(mapping.Document) bool) error {
	if a.vector != nil {
		return errVector
	}
	q := knowledge.Query{Words: knowledge.Words(a.Query), Readers: j.rights.readers,
		Owner: a.Filters.Owner, Classification: a.Filters.Classification, Source: a.Filters.Source, Collection: a.Filters.Collection}
	return e.k.Search(ctx, j.call.Connection.Name, q, func(d knowledge.Document) bool { return visit(mapped(d)) })
}

func (e embedded) get(ctx context.Context, j job, id string) (mapping.Document, bool, error) {
	d, err := e.k.Get(ctx, j.call.Connection.Name, id, j.rights.readers)
	if errors.Is(err, knowledge.ErrNotFound) {
		return mapping.Document{}, false, nil
	}
	return mapped(d), err == nil, err
}

func mapped(d knowledge.Document) mapping.Document {
	return mapping.Document{ID: d.ID, Title: d.Title, Text: d.Text, Owner: d.Owner, Classification: d.Classification, Source: d.Source, Collection: d.Collection, Readers: d.Readers}
}
