package search

import (
	"context"
	"slices"
	"strconv"
	"strings"
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
	if !q.wordy() {
		return s.findVector(ctx, q, p, "")
	}
	var found []string
	at := p
	for _, stride := range []int{s.walk, farther * s.walk} {
		near, err := s.near(ctx, q, at, stride)
		if err != nil {
			return nil, err
		}
		if near == "" { // no more than that are left
			rest, err := s.findVector(ctx, q, at, "")
			return append(found, rest...), err
		}
		more, err := s.findVector(ctx, q, at, near)
		if found = append(found, more...); err != nil || len(found) == p.Limit {
			return found, err
		}
		at = Page{After: near, Limit: p.Limit - len(found), Oldest: p.Oldest}
		if len(found)*farther < p.Limit {
			break // the page is not among those either
		}
	}
	at.rare = q.lookedUp() && !q.inOrder()
	rest, err := s.findVector(ctx, q, at, "")
	return append(found, rest...), err
}

// farther is how many times as many events are gone through when the first ones
// show that it is worth it.
const farther = 8

// wordy reports whether q selects by words, or by fields that are looked up as
// words: what PostgreSQL's planner cannot tell the number of, and whose index
// does not know the order of results.
func (q Query) wordy() bool {
	return len(q.terms) > 0 || slices.ContainsFunc(q.filters, func(f filter) bool { return worded[f.field.name] })
}

// lookedUp reports whether an index of words can find what q selects.
func (q Query) lookedUp() bool {
	return slices.ContainsFunc(q.terms, func(t term) bool { return !t.not }) || slices.ContainsFunc(q.filters, func(f filter) bool { return f.words() != nil })
}

// inOrder reports whether an index of a field lists what q selects in the order
// of results: going through that, or not, is for the planner to decide.
func (q Query) inOrder() bool {
	return slices.ContainsFunc(q.filters, func(f filter) bool {
		return !f.not && len(f.values) == 1 && !strings.Contains(f.values[0], "*") && slices.Contains([]string{"type", "decision", "status", "agent", "run"}, f.field.name)
	})
}

// near returns the event up to which events are gone through one by one, "" if
// there are not that many.
func (s store) near(ctx context.Context, q Query, p Page, stride int) (string, error) {
	c := conditions{pg: true}
	c.times(q)
	c.after(p)
	ids, err := s.ids(ctx, `SELECT id FROM search_events`+c.where()+` ORDER BY id`+p.order()+` OFFSET `+strconv.Itoa(stride)+` LIMIT 1`, c.args)
	if err != nil || len(ids) == 0 {
		return "", err
	}
	return ids[0], nil
}

// findVector is find on PostgreSQL, up to an event if it is named, which is
// included.
func (s store) findVector(ctx context.Context, q Query, p Page, upTo string) ([]string, error) {
	c := conditions{pg: true, blind: s.blind}
	c.times(q)
	c.query(q, upTo == "")
	c.after(p)
	switch {
	case upTo == "":
	case p.Oldest:
		c.add("id <= %s", upTo)
	default:
		c.add("id >= %s", upTo)
	}
	return s.ids(ctx, `SELECT id FROM search_events`+c.where()+` ORDER BY id`+p.order()+` LIMIT `+c.arg(p.Limit), c.args)
}

func (p Page) order() string {
	order := " DESC"
	if p.Oldest {
		order = " ASC"
	}
	if p.rare {
		return " || ''" + order // no index has this order: the planner must look up and sort, not go through everything
	}
	return order
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
