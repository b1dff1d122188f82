package search

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// idSlack is how far the time in an event's identifier may be from the event's
// own: identifiers are ordered by time, which bounds a search in time at once.
const idSlack = time.Hour

// idAt returns the smallest identifier of an event at t.
func idAt(t time.Time) string {
	at := id.At(id.Event, t)
	return at[:len(at)-13] // without the random bits
}

// find returns identifiers of events that the conditions select.
func (s store) find(ctx context.Context, q Query, p Page) ([]string, error) {
	if s.db.Dialect() == storage.SQLite {
		return s.findLite(ctx, q, p)
	}
	c := conditions{pg: true, blind: s.blind}
	c.times(q)
	c.query(q)
	c.after(p)
	return s.ids(ctx, `SELECT id FROM search_events`+c.where()+` ORDER BY id`+p.order()+` LIMIT `+c.arg(p.Limit), c.args)
}

func (p Page) order() string {
	if p.Oldest {
		return " ASC"
	}
	return " DESC"
}

func (s store) ids(ctx context.Context, q string, args []any) ([]string, error) {
	rows, err := s.db.QueryPlanned(ctx, q, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		out = append(out, id)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}
