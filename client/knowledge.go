package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Document is a document of a knowledge base that Countersign keeps (a
// retrieval connection with the dialect embedded).
type Document struct {
	ID             string    `json:"id"`
	Title          string    `json:"title"`
	Text           string    `json:"text,omitempty"`
	Owner          string    `json:"owner,omitempty"`
	Readers        []string  `json:"readers"`                  // user:NAME, group:NAME, team:NAME, agent:NAME or everyone; none: nobody
	Classification string    `json:"classification,omitempty"` // public, internal, confidential, secret
	Source         string    `json:"source,omitempty"`         // trusted or untrusted
	Collection     string    `json:"collection,omitempty"`
	Digest         string    `json:"digest,omitempty"` // SHA-256 of the text
	PutBy          string    `json:"put_by,omitempty"`
	Updated        time.Time `json:"updated,omitzero"`
}

func documentQuery(id string) url.Values { return url.Values{"id": {id}} }

// PutDocuments writes at most 100 documents, all or none, and returns the ids of
// those that changed.
func (c *Client) PutDocuments(ctx context.Context, connection string, docs []Document) ([]string, error) {
	out, err := send[struct {
		Changed []string `json:"changed"`
	}](ctx, c, http.MethodPut, connectionPath(connection)+"/documents", map[string]any{"documents": docs})
	return out.Changed, err
}

// Documents lists the documents of a knowledge base without their texts.
func (c *Client) Documents(ctx context.Context, connection string) ([]Document, error) {
	return get[[]Document](ctx, c, connectionPath(connection)+"/documents", nil)
}

// Document returns one document with its text.
func (c *Client) Document(ctx context.Context, connection, id string) (Document, error) {
	return get[Document](ctx, c, connectionPath(connection)+"/document", documentQuery(id))
}

// RemoveDocument removes a document.
func (c *Client) RemoveDocument(ctx context.Context, connection, id string) error {
	return c.do(ctx, http.MethodDelete, connectionPath(connection)+"/document", documentQuery(id), nil, nil)
}
