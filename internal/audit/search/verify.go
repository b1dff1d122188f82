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
// no record. Of long texts the first and the last words are looked up.
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
		have, there := rows[doc(r)]
		delete(rows, doc(r))
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

// rows returns what the index holds of a lane's records in (from, to], by doc.
func (s store) rows(ctx context.Context, lane, from, to int64) (map[int64]indexed, error) {
	rows, err := s.db.Query(ctx, `SELECT `+columns+` FROM search_events WHERE doc > $1 AND doc <= $2 AND doc % 65536 = $3`,
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

// sampled is how many words of a text's beginning and end are looked up.
const sampled = 12

// missing says which words of a record the index does not find, or finds though
// they were erased.
func (s store) missing(ctx context.Context, r *audit.Record) (string, error) {
	for _, part := range []struct{ text, column, table, what string }{
		{eventText(r), "words", "search_text", "its words are not in the search index"},
		{s.blind.text(payloadText(r)), "blind", "search_blind", "the words of its payloads are not in the search index"},
	} {
		w := strings.Fields(part.text)
		for _, phrase := range [][]string{w[:min(len(w), sampled)], w[max(0, len(w)-sampled):]} {
			if len(phrase) == 0 || len(w) > maxPosition || slices.ContainsFunc(phrase, foreign) {
				continue // engines number words only so far, and part foreign ones in their own ways
			}
			ok, err := s.holds(ctx, part.column, part.table, phrase, doc(r))
			if err != nil || !ok {
				return part.what, err
			}
		}
	}
	if len(r.Event.Payloads) == 0 || len(r.Payloads) > 0 || len(r.Damaged) > 0 {
		return "", nil
	}
	left, err := s.blinded(ctx, doc(r))
	if err != nil || !left {
		return "", err
	}
	return "words of its payloads, which are gone, are still in the search index", nil
}

func foreign(word string) bool {
	return strings.ContainsFunc(word, func(r rune) bool { return r > 127 })
}

func (s store) holds(ctx context.Context, column, table string, phrase []string, doc int64) (ok bool, err error) {
	q, match := `SELECT EXISTS (SELECT 1 FROM `+table+` WHERE `+table+` MATCH $1 AND rowid = $2)`, `"`+strings.Join(phrase, " ")+`"`
	if s.db.Dialect() == storage.Postgres {
		q, match = `SELECT EXISTS (SELECT 1 FROM search_events WHERE `+column+` @@ $1::text::tsquery AND doc = $2)`, tsquery(phrase, false)
	}
	if err := s.db.QueryRow(ctx, q, match, doc).Scan(&ok); err != nil {
		return false, storage.ErrUnavailable.With(err)
	}
	return ok, nil
}

// blinded reports whether the index holds words of payloads of a record.
func (s store) blinded(ctx context.Context, doc int64) (ok bool, err error) {
	q := `SELECT EXISTS (SELECT 1 FROM search_blind WHERE rowid = $1)`
	if s.db.Dialect() == storage.Postgres {
		q = `SELECT EXISTS (SELECT 1 FROM search_events WHERE doc = $1 AND blind <> ''::tsvector)`
	}
	if err := s.db.QueryRow(ctx, q, doc).Scan(&ok); err != nil {
		return false, storage.ErrUnavailable.With(err)
	}
	return ok, nil
}
