package search

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type store struct {
	db    *storage.DB
	blind blinder
	known *known // on SQLite
	walk  int    // on SQLite: events gone through one by one before lists of words are
}

// walkLite is how many events are gone through one by one, from where a page
// begins, before the lists of all words with a beginning are merged: if what is
// looked for is common the page is among them, and if it is not, there is little
// to merge.
const walkLite = maxPage

func (s store) positions(ctx context.Context) (audit.Cursor, error) {
	rows, err := s.db.Query(ctx, `SELECT lane, sn FROM search_positions`)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	c := audit.Cursor{}
	for rows.Next() {
		var lane, sn int64
		if err := rows.Scan(&lane, &sn); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		c[lane] = sn
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return c, nil
}

// advance moves a lane's position and reports whether it was still at from:
// not if the index was emptied or another replica was faster.
func (s store) advance(ctx context.Context, tx *storage.Tx, lane, from, to int64) (bool, error) {
	q, args := `UPDATE search_positions SET sn = $1 WHERE lane = $2 AND sn = $3`, []any{to, lane, from}
	if from == 0 {
		q, args = `INSERT INTO search_positions (lane, sn) VALUES ($2, $1) ON CONFLICT (lane) DO NOTHING`, args[:2]
	}
	res, err := tx.Exec(ctx, q, args...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

var columns = func() string {
	names := []string{"place", "id", "at"}
	for _, f := range fields {
		names = append(names, f.column)
	}
	return strings.Join(names, ", ")
}()

// place numbers a record: lanes are few, records are many.
func place(r *audit.Record) int64 { return r.SN<<16 | r.Lane&0xffff }

// texts are the words of one record.
type texts struct{ event, blind string }

// insert adds records and their words to the index, and counts them.
func (s store) insert(ctx context.Context, tx *storage.Tx, recs []audit.Record, words []texts) error {
	if err := s.count(ctx, tx, recs); err != nil {
		return err
	}
	if s.db.Dialect() == storage.SQLite {
		return s.insertLite(ctx, tx, recs, words)
	}
	var q strings.Builder
	var args []any
	q.WriteString(`INSERT INTO search_events (` + columns + `, words, blind) VALUES `)
	for i := range recs {
		r := &recs[i]
		if i > 0 {
			q.WriteString(", ")
		}
		q.WriteString("(")
		args = append(args, place(r), r.Event.ID, storage.Micros(r.Event.Time))
		for _, f := range fields {
			args = append(args, f.value(&r.Event))
		}
		for n := len(args) - len(fields) - 2; n <= len(args); n++ {
			fmt.Fprintf(&q, "$%d, ", n)
		}
		args = append(args, vector(words[i].event), vector(words[i].blind))
		fmt.Fprintf(&q, "$%d::text::tsvector, $%d::text::tsvector)", len(args)-1, len(args))
	}
	_, err := tx.Exec(ctx, q.String(), args...)
	return err
}

// maxPosition is the largest position a tsvector holds.
const maxPosition = 16383

// vector writes words as a tsvector literal. They are letters and digits, so
// nothing needs quoting beyond the quotes.
func vector(text string) string {
	var b strings.Builder
	n := 0
	for w := range strings.FieldsSeq(text) {
		n++
		b.WriteString(" '" + w + "':" + strconv.Itoa(min(n, maxPosition)))
	}
	return b.String()
}

// clear empties the index inside tx.
func (s store) clear(ctx context.Context, tx *storage.Tx) error {
	s.known.reset()
	q := []string{`DELETE FROM search_positions`, `DELETE FROM search_events`, `DELETE FROM search_values`, `DELETE FROM search_minutes`, `DELETE FROM search_runs`, `DELETE FROM search_run_labels`, `INSERT INTO search_text (search_text) VALUES ('delete-all')`}
	if s.db.Dialect() == storage.Postgres {
		q = []string{`TRUNCATE search_positions, search_events, search_minutes, search_runs, search_run_labels`}
	}
	for _, q := range q {
		if _, err := tx.Exec(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// conditions collects a WHERE clause.
type conditions struct {
	pg    bool
	blind blinder
	sql   []string
	args  []any
}

func (c *conditions) arg(v any) string {
	c.args = append(c.args, v)
	return "$" + strconv.Itoa(len(c.args))
}

func (c *conditions) add(format string, v any) {
	c.sql = append(c.sql, fmt.Sprintf(format, c.arg(v)))
}

func (c *conditions) where() string {
	if len(c.sql) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.sql, " AND ")
}

// times selects q's span of time, by the events' identifiers too.
func (c *conditions) times(q Query) {
	if !q.since.IsZero() {
		c.add("at >= %s", storage.Micros(q.since))
		c.add("id >= %s", idAt(q.since.Add(-idSlack)))
	}
	if !q.until.IsZero() {
		c.add("at < %s", storage.Micros(q.until))
		c.add("id < %s", idAt(q.until.Add(idSlack)))
	}
}

// after selects what follows the page before.
func (c *conditions) after(p Page) {
	switch {
	case p.After == "":
	case p.Oldest:
		c.add("id > %s", p.After)
	default:
		c.add("id < %s", p.After)
	}
}

// query selects the rest of q on PostgreSQL, the fields also by their words: the
// planner chooses between going through events in the order of results, the index
// of a field and that of words. What it knows of the query's words decides, so
// the statement must be planned for them (storage.DB.QueryPlanned).
func (c *conditions) query(q Query) {
	for _, f := range q.filters {
		c.filter(f)
		c.filterWords(f)
	}
	for _, t := range q.terms {
		c.term(t)
	}
}

// filterWords says of a field's value what the words of the event say, too: the
// index of words finds it among millions when the field has no index.
func (c *conditions) filterWords(f filter) {
	var any []string
	for _, words := range f.words() {
		any = append(any, "words @@ "+c.arg(tsquery(words, false))+"::text::tsquery")
	}
	if len(any) > 0 {
		c.sql = append(c.sql, "("+strings.Join(any, " OR ")+")")
	}
}

var escapeLike = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`)

func (c *conditions) filter(f filter) {
	if f.field.multi && f.not && strings.Contains(strings.Join(f.values, ""), "*") {
		return // only Match can tell, see below
	}
	like := "LIKE"
	if c.pg {
		like = "ILIKE"
	}
	var any []string
	for _, v := range f.values {
		v = strings.ReplaceAll(v, "\x00", "\uFFFD")
		switch {
		case f.field.multi:
			// The wildcard must not run over from one value into the next, so
			// what LIKE finds is checked again in Match.
			any = append(any, fmt.Sprintf(`%s %s %s ESCAPE '\'`, f.field.column, like, c.arg("%\n"+escapeLike.Replace(v)+"\n%")))
		case strings.Contains(v, "*"):
			any = append(any, fmt.Sprintf(`%s %s %s ESCAPE '\'`, f.field.column, like, c.arg(escapeLike.Replace(v))))
		case f.field.name == "status":
			any = append(any, "(status = "+c.arg(v)+" AND status <> '')") // what its index holds
		default:
			any = append(any, f.field.column+" = "+c.arg(v))
		}
	}
	cond := "(" + strings.Join(any, " OR ") + ")"
	if f.not {
		cond = "NOT " + cond
	}
	c.sql = append(c.sql, cond)
}

func (c *conditions) term(t term) {
	not := ""
	if t.not {
		not = "NOT "
	}
	cond := "words @@ " + c.arg(tsquery(t.words, t.prefix)) + "::text::tsquery"
	if !t.prefix {
		cond += " OR blind @@ " + c.arg(tsquery(c.blind.all(t.words), false)) + "::text::tsquery"
	}
	c.sql = append(c.sql, not+"("+cond+")")
}

// tsquery writes words that follow each other. They are letters and digits.
func tsquery(words []string, prefix bool) string {
	q := "'" + strings.Join(words, "' <-> '") + "'"
	if prefix {
		q += ":*"
	}
	return q
}
