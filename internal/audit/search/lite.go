package search

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// SQLite's index. A document's number is the time of its event, so that the
// full-text table, which lists documents by number, lists them in the order of
// results: a page is read from one end of the lists, however long they are. The
// values of fields stand among the words, so that one expression selects by
// fields and words alike.
//
// Words of events are letters and digits. What begins with an underscore is not
// a word: one is followed by a digest of a payload's word, two by one of a
// field's value.
const (
	liteBlind = "_"
	liteField = "__"
	liteAll   = "__all" // every document has it
)

// docAt returns the lowest number of documents of events at t: 256 to the
// millisecond.
func docAt(t time.Time) int64 {
	return t.UnixMilli()<<8 | int64(t.Nanosecond())%1e6*256/1e6
}

// docOf returns where the document of an event should be.
func docOf(ev *audit.Event) int64 {
	t, ok := id.Time(id.Event, ev.ID)
	if !ok {
		t = ev.Time
	}
	return docAt(t)
}

// freeDoc returns the first number from doc on that no document has.
func (s store) freeDoc(ctx context.Context, tx *storage.Tx, doc int64) (int64, error) {
	var free int64
	err := tx.QueryRow(ctx, `SELECT doc + 1 FROM search_events AS e WHERE doc >= $1 AND NOT EXISTS (SELECT 1 FROM search_events AS n WHERE n.doc = e.doc + 1) ORDER BY doc LIMIT 1`, doc).Scan(&free)
	return free, err
}

var insertLite = func() string {
	n := 3 + strings.Count(columns, ",")
	return `INSERT INTO search_events (doc, blind, ` + columns + `) VALUES (?` + strings.Repeat(", ?", n-1) + `) ON CONFLICT (doc) DO NOTHING`
}()

// insertLite adds records and their words to SQLite's index.
func (s store) insertLite(ctx context.Context, tx *storage.Tx, recs []audit.Record, words []texts) error {
	for i := range recs {
		r := &recs[i]
		doc, err := s.insertRow(ctx, tx, r, words[i].blind != "")
		if err != nil {
			return err
		}
		// Parameters without numbers: numbered ones are names to SQLite, and looked up one by one.
		if _, err := tx.Exec(ctx, `INSERT INTO search_text (rowid, words) VALUES (?, ?)`, doc, s.document(r, words[i])); err != nil {
			return err
		}
	}
	return nil
}

// insertRow adds a record's row under the first number that is free, and returns that.
func (s store) insertRow(ctx context.Context, tx *storage.Tx, r *audit.Record, blind bool) (int64, error) {
	doc := docOf(&r.Event)
	args := []any{doc, blind, place(r), r.Event.ID, storage.Micros(r.Event.Time)}
	for i := range fields {
		f := &fields[i]
		args = append(args, f.value(&r.Event))
		if err := s.remember(ctx, tx, f, &r.Event); err != nil {
			return 0, err
		}
	}
	for {
		res, err := tx.Exec(ctx, insertLite, args...)
		if err != nil {
			return 0, err
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return doc, err
		}
		if doc, err = s.freeDoc(ctx, tx, doc); err != nil {
			return 0, err
		}
		args[0] = doc
	}
}

// document is what the full-text table is given of a record.
func (s store) document(r *audit.Record, words texts) string {
	var b strings.Builder
	b.WriteString(liteAll)
	for i := range fields {
		for _, token := range s.blind.fieldTokens(&fields[i], &r.Event) {
			b.WriteByte(' ')
			b.WriteString(token)
		}
	}
	b.WriteByte(' ')
	b.WriteString(words.event)
	for w := range strings.FieldsSeq(words.blind) {
		b.WriteString(" " + liteBlind)
		b.WriteString(w)
	}
	return b.String()
}

// fieldTokens returns what an event's document holds of a field: each value,
// its beginning up to a slash, and of a tool also what follows the last one.
func (b blinder) fieldTokens(f *field, ev *audit.Event) []string {
	var out []string
	for _, v := range f.of(ev) {
		if v == "" {
			continue
		}
		out = append(out, b.valueToken(f, v))
		if kind, _, ok := strings.Cut(v, "/"); ok {
			out = append(out, b.kindToken(f, kind))
		}
		if f.name == "tool" {
			out = append(out, b.tailToken(f, v[strings.LastIndexByte(v, '/')+1:]))
		}
	}
	return out
}

func (b blinder) valueToken(f *field, v string) string { return b.fieldToken("is", f, v) }

// kindToken and tailToken are for wildcards, to which case does not matter.
func (b blinder) kindToken(f *field, v string) string {
	return b.fieldToken("kind", f, strings.ToLower(v))
}
func (b blinder) tailToken(f *field, v string) string {
	return b.fieldToken("tail", f, strings.ToLower(v))
}

func (b blinder) fieldToken(what string, f *field, v string) string {
	return liteField + b.digest(what+"\x00"+f.name+"\x00"+v)
}

// numberless are the fields that take a new value with nearly every event.
// Values of the others are remembered, for wildcards.
var numberless = map[string]bool{"run": true, "call": true, "object": true, "touches": true, "credential": true, "remote": true}

// maxKnown is how many values of fields are remembered in memory, so that they
// need not be written again.
const maxKnown = 100_000

// remember notes the values of a field.
func (s store) remember(ctx context.Context, tx *storage.Tx, f *field, ev *audit.Event) error {
	if numberless[f.name] {
		return nil
	}
	for _, v := range f.of(ev) {
		if v == "" || s.known.has(f.name, v) {
			continue
		}
		if _, err := tx.Exec(ctx, `INSERT INTO search_values (field, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`, f.name, v); err != nil {
			return err
		}
		s.known.later(f.name, v)
	}
	return nil
}

// forgetLite takes the words of payloads out of the documents at places.
func (s *Service) forgetLite(ctx context.Context, tx *storage.Tx, places []audit.Place) error {
	rows, err := tx.Query(ctx, `SELECT doc, id FROM search_events WHERE blind = 1 AND place IN (`+joinPlaces(places)+`)`)
	if err != nil {
		return err
	}
	defer rows.Close()
	docs := map[string]int64{}
	var ids []string
	for rows.Next() {
		var doc int64
		var id string
		if err := rows.Scan(&doc, &id); err != nil {
			return err
		}
		docs[id], ids = doc, append(ids, id)
	}
	if err := rows.Err(); err != nil || len(ids) == 0 {
		return err
	}
	recs, err := s.log.GetMany(ctx, ids)
	if err != nil {
		return err
	}
	if len(recs) != len(ids) {
		return fmt.Errorf("the search index holds %d events of which the log has %d", len(ids), len(recs))
	}
	for i := range recs {
		doc := docs[recs[i].Event.ID]
		if _, err := tx.Exec(ctx, `UPDATE search_text SET words = ? WHERE rowid = ?`, s.store.document(&recs[i], texts{event: eventText(&recs[i])}), doc); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE search_events SET blind = 0 WHERE doc = ?`, doc); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO search_state (name, value) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET value = 1`, purgeState)
	return err
}

func joinPlaces(places []audit.Place) string {
	out := make([]string, len(places))
	for i, p := range places {
		out[i] = fmt.Sprint(place(&audit.Record{Lane: p.Lane, SN: p.SN}))
	}
	return strings.Join(out, ", ")
}
