package search

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// Slice is what a look at a part of the index found.
type Slice struct {
	Checked  int64
	Next     audit.Place // where the next slice begins
	Done     bool        // there is no next one
	Problems []audit.Problem
}

// maxProblems is how many problems of one slice are reported.
const maxProblems = 20

// VerifySlice compares the index with the log, for about budget records after a
// place, as far as the index has followed: every record must have its row, with
// the columns and the words that it would be given now, and no row may stand for
// no record.
func (s *Service) VerifySlice(ctx context.Context, after audit.Place, budget int64) (Slice, error) {
	at, err := s.store.positions(ctx)
	if err != nil {
		return Slice{}, err
	}
	out := Slice{Next: after}
	for _, lane := range slices.Sorted(maps.Keys(at)) {
		if lane < after.Lane {
			continue
		}
		from := int64(0)
		if lane == after.Lane {
			from = min(max(0, after.SN), at[lane])
		}
		for from < at[lane] {
			if out.Checked >= budget || len(out.Problems) >= maxProblems {
				return out, nil
			}
			to := min(at[lane], from+perLane)
			found, err := s.verifySpan(ctx, lane, from, to)
			if err != nil {
				return out, err
			}
			out.Problems = append(out.Problems, found...)
			out.Checked += to - from
			from, out.Next = to, audit.Place{Lane: lane, SN: to}
		}
	}
	out.Next, out.Done = audit.Place{}, true
	return out, nil
}

// indexed is what the index holds of a record.
type indexed struct {
	id     string
	at     int64
	fields []string
}

// verifySpan compares the records of a lane in (from, to]. What is erased or
// rebuilt meanwhile is looked at another time.
func (s *Service) verifySpan(ctx context.Context, lane, from, to int64) ([]audit.Problem, error) {
	before, err := s.log.Erasures(ctx)
	if err != nil {
		return nil, err
	}
	recs, err := s.log.Span(ctx, lane, from, to)
	if err != nil {
		return nil, err
	}
	rows, err := s.store.rows(ctx, lane, from, to)
	if err != nil {
		return nil, err
	}
	var found []audit.Problem
	wrong := func(r *audit.Record, format string, args ...any) {
		found = append(found, audit.Problem{Lane: lane, SN: r.SN, Event: r.Event.ID, Message: fmt.Sprintf(format, args...)})
	}
	for i := range recs {
		r := &recs[i]
		have, there := rows[place(r)]
		delete(rows, place(r))
		if !there {
			wrong(r, "is not in the search index")
			continue
		}
		if column := have.differs(r); column != "" {
			wrong(r, "differs in the search index: %s", column)
		}
		what, err := s.store.missing(ctx, r)
		if err != nil {
			return nil, err
		}
		if what != "" {
			wrong(r, "%s", what)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(rows)) {
		found = append(found, audit.Problem{Lane: lane, SN: d >> 16, Event: rows[d].id, Message: "is in the search index but not in the log"})
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found, s.unless(ctx, before, lane, to, &found)
}

// unless takes back what was found if the index was emptied, or payloads were
// erased, while it was looked for.
func (s *Service) unless(ctx context.Context, erasures, lane, to int64, found *[]audit.Problem) error {
	after, err := s.log.Erasures(ctx)
	if err != nil {
		return err
	}
	at, err := s.store.positions(ctx)
	if err != nil {
		return err
	}
	if after != erasures || at[lane] < to {
		*found = nil
	}
	return nil
}

// differs returns the first column that is not what r would be given, "" if
// there is none.
func (w indexed) differs(r *audit.Record) string {
	if w.id != r.Event.ID {
		return "id"
	}
	if w.at != storage.Micros(r.Event.Time) {
		return "at"
	}
	for i, f := range fields {
		// A field that is younger than the row stands empty in it.
		if want := f.value(&r.Event); w.fields[i] != want {
			return f.column
		}
	}
	return ""
}

// rows returns what the index holds of a lane's records in (from, to], by place.
func (s store) rows(ctx context.Context, lane, from, to int64) (map[int64]indexed, error) {
	rows, err := s.db.Query(ctx, `SELECT `+columns+` FROM search_events WHERE place > $1 AND place <= $2 AND place % 65536 = $3`,
		from<<16|0xffff, to<<16|0xffff, lane&0xffff)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := map[int64]indexed{}
	for rows.Next() {
		var d int64
		w := indexed{fields: make([]string, len(fields))}
		to := []any{&d, &w.id, &w.at}
		for i := range w.fields {
			to = append(to, &w.fields[i])
		}
		if err := rows.Scan(to...); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		out[d] = w
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// missing says which words of a record the index does not hold, or holds though
// they were erased.
func (s store) missing(ctx context.Context, r *audit.Record) (string, error) {
	t := texts{eventText(r), s.blind.text(payloadText(r))}
	look := s.missingVector
	if s.db.Dialect() == storage.SQLite {
		look = s.missingLite
	}
	event, blind, left, err := look(ctx, r, t)
	switch {
	case err != nil:
		return "", err
	case !event:
		return "its words are not in the search index", nil
	case left && len(r.Event.Payloads) > 0 && len(r.Payloads) == 0 && len(r.Damaged) == 0:
		return "words of its payloads, which are gone, are still in the search index", nil
	case !blind:
		return "the words of its payloads are not in the search index", nil
	}
	return "", nil
}

// missingVector compares a row of PostgreSQL with what it would be given now.
func (s store) missingVector(ctx context.Context, r *audit.Record, t texts) (event, blind, left bool, err error) {
	err = s.db.QueryRow(ctx, `SELECT words = $1::text::tsvector, blind = $2::text::tsvector, blind <> ''::tsvector FROM search_events WHERE place = $3`,
		vector(t.event), vector(t.blind), place(r)).Scan(&event, &blind, &left)
	if storage.NoRows(err) {
		return true, true, false, nil // a rebuild began
	}
	if err != nil {
		return false, false, false, storage.ErrUnavailable.With(err)
	}
	return event, blind, left, nil
}

// pieceWords is how many words are looked up in a row.
const pieceWords = 48

// missingLite looks for the words of a document in pieces that overlap, and
// compares how many there are: SQLite's index does not give them back.
func (s store) missingLite(ctx context.Context, r *audit.Record, t texts) (event, blind, left bool, err error) {
	var doc int64
	var size []byte
	err = s.db.QueryRow(ctx, `SELECT e.doc, e.blind, d.sz FROM search_events AS e JOIN search_text_docsize AS d ON d.id = e.doc WHERE e.place = $1`, place(r)).Scan(&doc, &left, &size)
	if storage.NoRows(err) {
		return false, true, false, nil
	}
	if err != nil {
		return false, false, false, storage.ErrUnavailable.With(err)
	}
	own := strings.Fields(s.document(r, texts{event: t.event}))
	all := strings.Fields(s.document(r, t))
	if !slices.ContainsFunc(own, foreign) {
		if count := sqliteVarint(size); count != int64(len(all)) {
			left = left || count > int64(len(all))
			return count >= int64(len(own)), false, left, nil
		}
	}
	if event, err = s.holds(ctx, own, doc); err != nil || !event {
		return event, true, left, err
	}
	blind, err = s.holds(ctx, all[max(0, len(own)-1):], doc)
	return event, blind, left, err
}

// sqliteVarint reads SQLite's variable-length number: 7 bits a byte, the most
// significant first.
func sqliteVarint(b []byte) (n int64) {
	for _, c := range b {
		n = n<<7 | int64(c&0x7f)
		if c < 0x80 {
			return n
		}
	}
	return -1
}

// foreign reports whether SQLite may divide a word in its own way.
func foreign(word string) bool {
	return strings.ContainsFunc(word, func(r rune) bool { return r > 127 })
}

// holds reports whether a document of SQLite's holds words in their order.
func (s store) holds(ctx context.Context, words []string, doc int64) (bool, error) {
	for at := 0; at < len(words); at += pieceWords - 1 {
		piece := words[at:min(len(words), at+pieceWords)]
		if slices.ContainsFunc(piece, foreign) {
			continue
		}
		var ok bool
		if err := s.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM search_text WHERE search_text MATCH $1 AND rowid = $2)`, phrase(piece), doc).Scan(&ok); err != nil {
			return false, storage.ErrUnavailable.With(err)
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}
