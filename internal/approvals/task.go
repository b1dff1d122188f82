package approvals

import (
	"context"
	"encoding/json/v2"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Task is a call that nobody held, whose answer is kept for its client: one
// that asks for tasks gets one for every call of a tool that may be held.
type Task struct {
	ID         string // tsk_…
	AgentID    string
	Chain      []audit.Actor
	Connection string
	Tool       string
	Call       string // call_… that was made
	Created    time.Time
	Until      time.Time
}

// Limits on such answers.
const (
	keepAnswered = time.Hour
	mostAnswered = 200 // of one agent; the oldest go first
)

// ErrAnswerSize refuses to keep an answer over KeepMost.
var ErrAnswerSize = fault.New(fault.TooLarge, "answer_too_large", "the call was made, but its answer is over the 1 MiB that are kept for a task; make such calls without asking for one")

// Of reports whether the call was this agent's for these people.
func (a *Task) Of(agent string, chain []audit.Actor) bool {
	return agent != "" && a.AgentID == agent && slices.Equal(a.Chain, chain)
}

// Keep keeps the answer to a call for an hour, sealed.
func (s *Service) Keep(ctx context.Context, a Task, k *Kept) (Task, error) {
	if len(k.Body) > KeepMost {
		return a, ErrAnswerSize
	}
	now := s.o.Now().UTC().Truncate(time.Microsecond)
	a.ID, a.Created, a.Until = id.At(id.Task, now), now, now.Add(keepAnswered)
	sealed, err := s.seal(a.ID, "answered", k)
	if err != nil {
		return a, err
	}
	return a, s.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO approval_answers (id, agent, chain, connection, tool, call, created, until, kept) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			a.ID, a.AgentID, text(a.Chain), a.Connection, a.Tool, a.Call, storage.Micros(a.Created), storage.Micros(a.Until), sealed)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM approval_answers WHERE until <= $1 OR (agent = $2 AND id <= (SELECT id FROM approval_answers WHERE agent = $2 ORDER BY id DESC LIMIT 1 OFFSET $3))`,
			storage.Micros(now), a.AgentID, mostAnswered)
		return err
	})
}

// Task returns such a call with its answer. ErrNotFound: there is none, or
// its time is over.
func (s *Service) Task(ctx context.Context, task string) (Task, *Kept, error) {
	a, chain, sealed := Task{ID: task}, "", []byte(nil)
	var created, until int64
	err := s.db.QueryRow(ctx, `SELECT agent, chain, connection, tool, call, created, until, kept FROM approval_answers WHERE id = $1 AND until > $2`, task, storage.Micros(s.o.Now())).
		Scan(&a.AgentID, &chain, &a.Connection, &a.Tool, &a.Call, &created, &until, &sealed)
	switch {
	case storage.NoRows(err):
		return a, nil, ErrNotFound
	case err != nil:
		return a, nil, unavailable(err)
	}
	a.Created, a.Until = storage.Time(created), storage.Time(until)
	if err := json.Unmarshal([]byte(chain), &a.Chain); err != nil {
		return a, nil, ErrStored.With(err)
	}
	k := &Kept{}
	return a, k, s.unseal(task, "answered", sealed, k)
}
