package secrets

import (
	"context"

	"github.com/countersign/countersign/internal/storage"
)

// fenced returns the keyset to seal with in tx, and keeps it so until tx ends:
// whoever changes the keyset waits for tx, or tx waits for them. It comes before
// tx reads what it will open. Without it a replica that has not heard of a new
// keyset could seal under a key that is gone when its transaction commits.
func (s *Service) fenced(ctx context.Context, tx *storage.Tx) (*master, error) {
	m := s.master.Load()
	var generation int64
	// A query, not Exec: it changes nothing, so there is nothing to record.
	err := tx.QueryRow(ctx, `UPDATE secret_keys SET generation = generation WHERE name = $1 RETURNING generation`, keysetRow).Scan(&generation)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	if generation == m.generation {
		return m, nil
	}
	return s.turnTo(ctx, tx)
}

// turnTo makes the keyset that q shows the one that this replica uses, and takes
// up the next key if that is the one in use now.
func (s *Service) turnTo(ctx context.Context, q querier) (*master, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	was := s.master.Load()
	rows, generation, err := keyRows(ctx, q)
	if err != nil || generation == was.generation {
		return was, err
	}
	m, err := loadMaster(ctx, s.keys, rows, generation)
	if err != nil {
		return nil, err
	}
	m.former = was.aead
	s.master.Store(m)
	s.logger.Info("the keyset of secrets is another now", "generation", generation)
	return m, nil
}

// stored returns all secrets and the versions beside the current ones, sealed
// under the keyset that this replica uses.
func (s *Service) stored(ctx context.Context) ([]row, []versionRow, error) {
	for range 5 {
		m, err := s.turnTo(ctx, s.db)
		if err != nil {
			return nil, nil, err
		}
		if ok, err := s.keys.adopt(ctx, m.sealed); err != nil {
			s.logger.Error("the new key could not take the place of the one before; it is tried at every change and start", "error", err)
		} else if ok {
			s.logger.Info("the new key is in use; the one before is kept beside it for old copies of the database", "key", s.keys.kind())
		}
		rows, err := secretRows(ctx, s.db, "")
		if err != nil {
			return nil, nil, err
		}
		beside, err := versionRows(ctx, s.db, "")
		if err != nil {
			return nil, nil, err
		}
		if _, generation, err := keyRows(ctx, s.db); err != nil || generation == m.generation {
			return rows, beside, err
		}
	}
	return nil, nil, storage.ErrUnavailable.Say("the keyset of secrets keeps changing; try again")
}

// openRow opens a row that was read outside a transaction, by a keyset that
// this replica may not have heard of.
func (s *Service) openRow(ctx context.Context, sec Secret, sealed []byte) (Value, error) {
	v, err := s.master.Load().open(sec, sealed)
	if err == nil {
		return v, nil
	}
	m, terr := s.turnTo(ctx, s.db)
	if terr != nil {
		return Value{}, terr
	}
	return m.open(sec, sealed)
}
