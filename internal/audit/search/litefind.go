package search

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// expression is a query to SQLite's index: an FTS5 expression, in two parts, and
// what only the columns can tell.
type expression struct {
	and, not []string
	columns  conditions
	nothing  bool // no event can be selected
}

func (e *expression) String() string {
	and := e.and
	if len(and) == 0 {
		if len(e.not) == 0 {
			return ""
		}
		and = []string{liteAll}
	}
	s := "(" + strings.Join(and, " AND ") + ")"
	if len(e.not) > 0 {
		s += " NOT (" + strings.Join(e.not, " OR ") + ")"
	}
	return s
}

func phrase(words []string) string { return `"` + strings.Join(words, " ") + `"` }

// expressionOf translates q but for its times.
func (s store) expressionOf(ctx context.Context, q Query) (*expression, error) {
	e := &expression{columns: conditions{blind: s.blind}}
	for _, f := range q.filters {
		tokens, ok, err := s.tokens(ctx, f)
		switch {
		case err != nil:
			return nil, err
		case !ok:
			e.columns.filter(f)
			if beginning := f.beginning(); beginning != "" {
				e.and = append(e.and, beginning)
			}
		case f.not:
			e.not = append(e.not, tokens...)
		case len(tokens) == 0:
			e.nothing = true
		default:
			e.and = append(e.and, "("+strings.Join(tokens, " OR ")+")")
		}
	}
	for _, t := range q.terms {
		m := phrase(t.words)
		if t.prefix {
			m += " *"
		} else {
			blind := s.blind.all(t.words)
			for i := range blind {
				blind[i] = liteBlind + blind[i]
			}
			m = "(" + m + " OR " + phrase(blind) + ")"
		}
		if t.not {
			e.not = append(e.not, m)
		} else {
			e.and = append(e.and, m)
		}
	}
	return e, nil
}

// maxExpanded is how many values a wildcard may stand for in an expression, and
// maxValues among how many of them they are looked for.
const maxExpanded, maxValues = 200, 10_000

// tokens returns what documents hold if a field has one of a filter's values;
// not ok if the index cannot tell.
func (s store) tokens(ctx context.Context, f filter) (tokens []string, ok bool, err error) {
	for _, v := range f.values {
		v = strings.ReplaceAll(v, "\x00", "\uFFFD")
		kind, one := strings.CutSuffix(v, "/*")
		tail, last := strings.CutPrefix(v, "*/")
		switch {
		case !strings.Contains(v, "*"):
			tokens = append(tokens, phrase([]string{s.blind.valueToken(f.field, v)}))
		case one && !strings.ContainsAny(kind, "*/"):
			tokens = append(tokens, phrase([]string{s.blind.kindToken(f.field, kind)}))
		case f.field.name == "tool" && last && !strings.ContainsAny(tail, "*/"):
			tokens = append(tokens, phrase([]string{s.blind.tailToken(f.field, tail)}))
		default:
			more, ok, err := s.expand(ctx, f.field, v)
			if err != nil || !ok {
				return nil, false, err
			}
			tokens = append(tokens, more...)
		}
	}
	return tokens, len(tokens) <= maxExpanded, nil
}

// expand returns the tokens of the values that a wildcard stands for.
func (s store) expand(ctx context.Context, f *field, pattern string) (tokens []string, ok bool, err error) {
	if numberless[f.name] {
		return nil, false, nil
	}
	rows, err := s.db.Query(ctx, `SELECT value FROM search_values WHERE field = $1 LIMIT $2`, f.name, maxValues+1)
	if err != nil {
		return nil, false, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, false, storage.ErrUnavailable.With(err)
		}
		if glob(pattern, v) {
			tokens = append(tokens, phrase([]string{s.blind.valueToken(f, v)}))
		}
	}
	if err := rows.Err(); err != nil {
		return nil, false, storage.ErrUnavailable.With(err)
	}
	return tokens, n <= maxValues && len(tokens) <= maxExpanded, nil
}

// beginning narrows a filter that only columns can tell to events with the
// words that its values begin with; empty if that is not possible.
func (f filter) beginning() string {
	if f.not || !worded[f.field.name] {
		return ""
	}
	var any []string
	for _, v := range f.values {
		begin, _, _ := strings.Cut(v, "*")
		w := words(begin)
		if len(w) == 0 || len(w[len(w)-1]) >= maxWord {
			return ""
		}
		any = append(any, phrase(w)+" *")
	}
	return "(" + strings.Join(any, " OR ") + ")"
}

// findLite is find on SQLite: the lists are read from one end until the page is
// full.
func (s store) findLite(ctx context.Context, q Query, p Page) ([]string, error) {
	e, err := s.expressionOf(ctx, q)
	if err != nil || e.nothing {
		return nil, err
	}
	low, high := int64(0), int64(math.MaxInt64)
	if !q.since.IsZero() {
		low = docAt(q.since.Add(-idSlack))
		e.columns.add("e.at >= %s", storage.Micros(q.since))
	}
	if !q.until.IsZero() {
		high = docAt(q.until.Add(idSlack))
		e.columns.add("e.at < %s", storage.Micros(q.until))
	}
	if p.After != "" {
		doc, err := s.docAfter(ctx, p.After)
		if err != nil {
			return nil, err
		}
		if p.Oldest {
			low = max(low, doc+1)
		} else {
			high = min(high, doc)
		}
	}
	from, doc := "search_events AS e", "e.doc"
	c := e.columns
	if match := e.String(); match != "" {
		from, doc = "search_text AS t CROSS JOIN search_events AS e ON e.doc = t.rowid", "t.rowid"
		c.add("t.search_text MATCH %s", match)
	}
	c.add(doc+" >= %s", low)
	c.add(doc+" < %s", high)
	limit := c.arg(p.Limit)
	return s.ids(ctx, `SELECT e.id FROM `+from+c.where()+` ORDER BY `+doc+p.order()+` LIMIT `+limit, c.args)
}

// docAfter returns the document of an event, or where it would be.
func (s store) docAfter(ctx context.Context, event string) (int64, error) {
	var doc int64
	err := s.db.QueryRow(ctx, `SELECT doc FROM search_events WHERE id = $1`, event).Scan(&doc)
	if storage.NoRows(err) {
		return docOf(&audit.Event{ID: event}), nil
	}
	if err != nil {
		return 0, storage.ErrUnavailable.With(err)
	}
	return doc, nil
}

// findBegun finds a page of events with words that begin in some way if these
// are common, and reports whether it did.
func (s *Service) findBegun(ctx context.Context, q Query, p Page) ([]audit.Record, bool, error) {
	rest := q
	rest.terms = slices.DeleteFunc(slices.Clone(q.terms), func(t term) bool { return t.prefix })
	ids, err := s.store.findLite(ctx, rest, Page{After: p.After, Limit: s.store.walk, Oldest: p.Oldest})
	if err != nil {
		return nil, false, err
	}
	q.terms = slices.DeleteFunc(slices.Clone(q.terms), func(t term) bool { return !t.prefix })
	var found []audit.Record
	for part := range slices.Chunk(ids, max(p.Limit, 100)) {
		recs, err := s.log.GetMany(ctx, part)
		if err != nil {
			return nil, false, err
		}
		for i := range recs {
			if q.begins(&recs[i]) {
				found = append(found, recs[i])
			}
		}
		if len(found) >= p.Limit {
			return found[:p.Limit], true, nil
		}
	}
	return found, len(ids) < s.store.walk, nil
}

// begins reports whether the words of r's event satisfy q's terms.
func (q Query) begins(r *audit.Record) bool {
	text := " " + eventText(r)
	for _, t := range q.terms {
		if strings.Contains(text, " "+strings.Join(t.words, " ")) == t.not {
			return false
		}
	}
	return true
}

func (q Query) hasBeginnings() bool {
	return slices.ContainsFunc(q.terms, func(t term) bool { return t.prefix })
}
