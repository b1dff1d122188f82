package search

import (
	"context"
	"fmt"
	"slices"
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
	c := conditions{pg: s.db.Dialect() == storage.Postgres, blind: s.blind}
	c.query(q)
	order := "DESC"
	if p.Oldest {
		order = "ASC"
	}
	if p.After != "" {
		if p.Oldest {
			c.add("id > %s", p.After)
		} else {
			c.add("id < %s", p.After)
		}
	}
	if !c.pg {
		return s.findLite(ctx, q, p, c, order)
	}
	rows, err := s.ids(ctx, `SELECT id, doc FROM search_events`+c.where()+` ORDER BY id `+order+` LIMIT `+c.arg(p.Limit), c.args)
	return names(rows), err
}

type row struct {
	id  string
	doc int64
}

func names(rows []row) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r.id)
	}
	return out
}

func (s store) ids(ctx context.Context, q string, args []any) ([]row, error) {
	rows, err := s.db.Query(ctx, q, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.id, &r.doc); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// match is a question to SQLite's full-text tables: documents in which one of
// them has this. Both are FTS5 expressions; an empty one is not asked.
type match struct {
	text, blind string
	not         bool
}

// sql returns a query of the documents, within a range of them if there is one.
func (m match) sql(within string) (string, []any) {
	q, args := `SELECT rowid FROM search_text WHERE search_text MATCH ?`+within, []any{m.text}
	if m.blind != "" {
		q += ` UNION SELECT rowid FROM search_blind WHERE search_blind MATCH ?` + within
		args = append(args, m.blind)
	}
	return q, args
}

func phrase(words []string) string { return `"` + strings.Join(words, " ") + `"` }

// matches returns what a query says about words: one question for all fields,
// empty if there is none, and one for each term. The first only helps to find:
// SQL holds the fields to their values.
func (s store) matches(q Query) (of match, terms []match) {
	var fields []string
	for _, f := range q.filters {
		var any []string
		for _, w := range f.words() {
			any = append(any, phrase(w))
		}
		if len(any) > 0 {
			fields = append(fields, "("+strings.Join(any, " OR ")+")")
		}
	}
	of.text = strings.Join(fields, " AND ")
	for _, t := range q.terms {
		m := match{text: phrase(t.words), not: t.not}
		if t.prefix {
			m.text += " *"
		} else {
			m.blind = phrase(s.blind.all(t.words))
		}
		terms = append(terms, m)
	}
	return of, terms
}

// few is how many documents are looked at one by one, whatever their order.
const few = 2000

// findLite is find on SQLite, whose planner knows nothing of how common a word
// is. If some word is rare its documents are taken and sorted. If all are common
// the newest events are gone through, in pieces, until there are enough: the
// more common they are the sooner that is.
func (s store) findLite(ctx context.Context, q Query, p Page, c conditions, order string) ([]string, error) {
	of, ms := s.matches(q)
	for _, m := range append([]match{of}, ms...) {
		if m.not || m.text == "" {
			continue
		}
		sub, args := m.sql("")
		var n int
		if err := s.db.QueryRow(ctx, fmt.Sprintf(`SELECT count(*) FROM (%s LIMIT %d)`, strings.Replace(sub, " UNION ", " UNION ALL ", 1), few+1), args...).Scan(&n); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		if n > few {
			continue
		}
		return s.findRare(ctx, m, ms, p, c, order)
	}
	return s.findCommon(ctx, ms, p, c, order)
}

// findRare sorts the documents of m that the rest selects, too.
func (s store) findRare(ctx context.Context, m match, ms []match, p Page, c conditions, order string) ([]string, error) {
	sub, args := m.sql("")
	where, more := c.positional()
	args = append(args, more...)
	rows, err := s.ids(ctx, `SELECT e.id, e.doc FROM (`+sub+`) AS d CROSS JOIN search_events AS e ON e.doc = d.rowid`+where+` ORDER BY +e.id `+order, args)
	if err != nil {
		return nil, err
	}
	if rows, err = s.keep(ctx, rows, slices.DeleteFunc(slices.Clone(ms), func(o match) bool { return o == m })); err != nil {
		return nil, err
	}
	return names(rows[:min(len(rows), p.Limit)]), nil
}

// findCommon goes through the events from the newest on, in growing pieces.
func (s store) findCommon(ctx context.Context, ms []match, p Page, c conditions, order string) ([]string, error) {
	var found []row
	size := p.Limit
	if len(ms) > 0 {
		size = max(2*p.Limit, 256)
	}
	for {
		where, args := c.positional()
		rows, err := s.ids(ctx, `SELECT id, doc FROM search_events`+where+` ORDER BY id `+order+fmt.Sprintf(` LIMIT %d`, size), args)
		if err != nil {
			return nil, err
		}
		last := len(rows) < size
		end := ""
		if len(rows) > 0 {
			end = rows[len(rows)-1].id
		}
		if rows, err = s.keep(ctx, rows, ms); err != nil {
			return nil, err
		}
		found = append(found, rows...)
		if last || len(found) >= p.Limit {
			return names(found[:min(len(found), p.Limit)]), nil
		}
		if order == "ASC" {
			c.add("id > %s", end)
		} else {
			c.add("id < %s", end)
		}
		size = min(4*size, 16<<10)
	}
}

// keep returns the rows that all questions select. Documents that are near
// each other in time are near each other in their lane, so a question is asked
// once for each lane and a range of it.
func (s store) keep(ctx context.Context, rows []row, ms []match) ([]row, error) {
	for _, m := range ms {
		ranges := map[int64][2]int64{}
		for _, r := range rows {
			lane := r.doc & 0xffff
			at, ok := ranges[lane]
			if !ok {
				at = [2]int64{r.doc, r.doc}
			}
			ranges[lane] = [2]int64{min(at[0], r.doc), max(at[1], r.doc)}
		}
		have := map[int64]bool{}
		for _, at := range ranges {
			if err := s.within(ctx, m, at, have); err != nil {
				return nil, err
			}
		}
		rows = slices.DeleteFunc(rows, func(r row) bool { return have[r.doc] == m.not })
	}
	return rows, nil
}

// within adds the documents in a range that m selects.
func (s store) within(ctx context.Context, m match, at [2]int64, have map[int64]bool) error {
	sub, args := m.sql(fmt.Sprintf(` AND rowid BETWEEN %d AND %d`, at[0], at[1]))
	rows, err := s.db.Query(ctx, sub, args...)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		var doc int64
		if err := rows.Scan(&doc); err != nil {
			return storage.ErrUnavailable.With(err)
		}
		have[doc] = true
	}
	if err := rows.Err(); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	return nil
}

// positional returns the WHERE clause with its arguments marked by place, so
// that others can stand before them.
func (c *conditions) positional() (string, []any) {
	where := c.where()
	var b strings.Builder
	var args []any
	for i := 0; i < len(where); i++ {
		if where[i] != '$' {
			b.WriteByte(where[i])
			continue
		}
		n := 0
		for i+1 < len(where) && where[i+1] >= '0' && where[i+1] <= '9' {
			n = n*10 + int(where[i+1]-'0')
			i++
		}
		b.WriteByte('?')
		args = append(args, c.args[n-1])
	}
	return b.String(), args
}
