package endorsements

import (
	"context"
	"database/sql"
	"encoding/json/v2"

	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

// executor is a transaction.
type executor interface {
	Exec(ctx context.Context, q string, args ...any) (sql.Result, error)
}

func (s *Service) read(ctx context.Context, q querier, where string, args ...any) ([]Endorsement, error) {
	rows, err := q.Query(ctx, `SELECT id, kind, agent_id, agent, run, connection, tool, digest, sealed, approval, people, reason, created, expires, ended, ended_by, most, used FROM endorsements`+where, args...)
	if err != nil {
		return nil, ErrStored.With(err)
	}
	defer rows.Close()
	out := []Endorsement{}
	for rows.Next() {
		var e Endorsement
		var sealed []byte
		var people string
		var created, expires, ended int64
		err := rows.Scan(&e.ID, &e.Kind, &e.agentID, &e.Agent, &e.Run, &e.Connection, &e.Tool, &e.digest, &sealed, &e.Approval, &people, &e.Reason, &created, &expires, &ended, &e.EndedBy, &e.Calls, &e.Used)
		if err == nil {
			err = json.Unmarshal([]byte(people), &e.People)
		}
		if err != nil {
			return nil, ErrStored.With(err)
		}
		e.Created, e.Expires, e.Ended = storage.Time(created), storage.Time(expires), storage.Time(ended)
		if err := s.open(&e, sealed); err != nil {
			s.o.Logger.Error("an endorsement cannot be read; it endorses nothing", "endorsement", e.ID, "error", err)
			continue
		}
		out = append(out, e)
	}
	if err := rows.Err(); err != nil {
		return nil, ErrStored.With(err)
	}
	return out, nil
}

func (s *Service) insert(ctx context.Context, tx executor, e Endorsement) error {
	sealed, err := s.seal(e)
	if err != nil {
		return err
	}
	people, err := json.Marshal(e.People)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO endorsements (id, kind, agent_id, agent, run, connection, tool, digest, sealed, approval, people, reason, created, expires, ended, ended_by, most)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 0, '', $15)`,
		e.ID, e.Kind, e.agentID, e.Agent, e.Run, e.Connection, e.Tool, e.digest, sealed, e.Approval, string(people), e.Reason, storage.Micros(e.Created), storage.Micros(e.Expires), e.Calls)
	return err
}

// sealedFor ties what is sealed to its row.
func sealedFor(id string) []byte { return []byte("countersign endorsement\x00" + id) }

func (s *Service) seal(e Endorsement) ([]byte, error) {
	plain, err := json.Marshal(content{e.Arg, e.Value, e.Scope, e.bound})
	if err != nil {
		return nil, err
	}
	return s.aead.Seal(nil, nil, plain, sealedFor(e.ID)), nil
}

func (s *Service) open(e *Endorsement, sealed []byte) error {
	plain, err := s.aead.Open(nil, nil, sealed, sealedFor(e.ID))
	if err != nil {
		return err
	}
	var c content
	err = json.Unmarshal(plain, &c)
	e.Arg, e.Value, e.Scope, e.bound = c.Arg, c.Value, c.Scope, c.Bound
	return err
}
