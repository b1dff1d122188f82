package knowledge

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage"
)

// Registry knows connections; connections.Service is one.
type Registry interface {
	Connection(name string) (connections.Connection, bool)
}

// Service is the room's verbs. It is safe for concurrent use.
type Service struct {
	db       *storage.DB
	log      *audit.Log
	registry Registry
	now      func() time.Time
}

// New returns a Service.
func New(db *storage.DB, log *audit.Log, registry Registry, now func() time.Time) (*Service, error) {
	if registry == nil {
		return nil, errors.New("knowledge: a Registry is required")
	}
	if now == nil {
		now = time.Now
	}
	return &Service{db: db, log: log, registry: registry, now: now}, nil
}

// embedded returns the connection if it keeps its documents here.
func (s *Service) embedded(name string) (connections.Connection, error) {
	c, ok := s.registry.Connection(name)
	switch {
	case !ok:
		return c, connections.ErrNotFound.Say("there is no connection %.60q", name)
	case c.Kind != connections.Retrieval || c.Dialect != connections.Embedded:
		return c, ErrConnection
	}
	return c, nil
}

func checkReason(reason string, must bool) error {
	if len(reason) > 1000 || !utf8.ValidString(reason) || must && strings.TrimSpace(reason) == "" {
		return ErrReason
	}
	return nil
}

// Put writes documents, all or none; it returns the ids of those that changed.
func (s *Service) Put(ctx context.Context, by audit.Actor, reason, connection string, docs []Document) (changed []string, err error) {
	c, err := s.embedded(connection)
	if err != nil {
		return nil, err
	}
	if err := checkReason(reason, false); err != nil {
		return nil, err
	}
	if len(docs) == 0 || len(docs) > MaxBatch {
		return nil, ErrDocument.Say("put 1 to %d documents at once", MaxBatch)
	}
	normal := make([]Document, len(docs))
	seen := map[string]bool{}
	for i, d := range docs {
		if normal[i], err = d.normal(); err != nil {
			return nil, err
		}
		if seen[d.ID] {
			return nil, bad("id", "%+.60q is there twice", d.ID)
		}
		seen[d.ID] = true
	}
	err = s.log.Change(ctx, func(tx *audit.Tx) error {
		changed = []string{}
		for _, d := range normal {
			old, found, err := documentRow(ctx, tx, connection, d.ID)
			if err != nil {
				return err
			}
			if found && old.same(d) {
				continue
			}
			d.seq, d.PutBy, d.Updated = rand.Int64(), by.Name, s.now() //nolint:gosec // a row's number, not a secret
			if err := replace(ctx, tx.Tx, connection, d); err != nil {
				return err
			}
			if found {
				tx.Record(event("document.updated", by, reason, c, d))
			} else {
				tx.Record(event("document.created", by, reason, c, d))
			}
			changed = append(changed, d.ID)
		}
		return nil
	})
	return changed, err
}

// Remove removes a document. Needs a reason.
func (s *Service) Remove(ctx context.Context, by audit.Actor, reason, connection, id string) error {
	c, err := s.embedded(connection)
	if err != nil {
		return err
	}
	if err := checkReason(reason, true); err != nil {
		return err
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		d, found, err := documentRow(ctx, tx, connection, id)
		if err != nil {
			return err
		}
		if !found {
			return ErrNotFound.Say("there is no document %+.60q in %s", id, connection)
		}
		tx.Record(event("document.removed", by, reason, c, d))
		return drop(ctx, tx.Tx, connection, id)
	})
}

// event says which document changed and who may read it, not what is in it.
func event(t audit.Type, by audit.Actor, reason string, c connections.Connection, d Document) audit.Event {
	b, err := json.Marshal(struct {
		Digest         string   `json:"digest"`
		Bytes          int      `json:"bytes"`
		Readers        []string `json:"readers"`
		Classification string   `json:"classification"`
		Source         string   `json:"source"`
		Collection     string   `json:"collection,omitzero"`
	}{d.Digest, len(d.Text), append([]string{}, d.Readers...), d.Classification, d.Source, d.Collection})
	if err != nil { // plain texts of ours
		b = jsontext.Value("{}")
	}
	return audit.Event{Type: t, Actor: by, Reason: reason, Object: "document/" + c.Name + "/" + d.ID, Connection: c.Name, Owner: c.Owner, Detail: b}
}

// List returns the documents of a connection by id, without their texts.
func (s *Service) List(ctx context.Context, connection string) ([]Document, error) {
	if _, err := s.embedded(connection); err != nil {
		return nil, err
	}
	return documentRows(ctx, s.db, connection)
}

// Show returns one document with its text, for people.
func (s *Service) Show(ctx context.Context, connection, id string) (Document, error) {
	if _, err := s.embedded(connection); err != nil {
		return Document{}, err
	}
	d, found, err := documentRow(ctx, s.db, connection, id)
	if err == nil && !found {
		err = ErrNotFound.Say("there is no document %+.60q in %s", id, connection)
	}
	return d, err
}
