package search

import (
	"context"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// Insert adds records to the index in one transaction, as the follower does but
// without its pauses: benchmarks fill large indexes with it.
func (s *Service) Insert(ctx context.Context, recs []audit.Record) error {
	const chunk = 64
	epoch := 0
	err := s.db.Tx(ctx, func(tx *storage.Tx) error {
		epoch = s.store.known.begin()
		for len(recs) > 0 {
			n := min(chunk, len(recs))
			words := make([]texts, n)
			for i := range words {
				words[i] = texts{eventText(&recs[i]), s.store.blind.text(payloadText(&recs[i]))}
			}
			if err := s.store.insert(ctx, tx, recs[:n], words); err != nil {
				return err
			}
			recs = recs[n:]
		}
		return nil
	})
	s.store.known.commit(epoch)
	return err
}

// Document returns what SQLite's full-text table is given of a record.
func (s *Service) Document(r *audit.Record) string {
	return s.store.document(r, texts{eventText(r), s.store.blind.text(payloadText(r))})
}

// Walk sets how many events are gone through before lists of words are.
func (s *Service) Walk(n int) { s.store.walk = n }
