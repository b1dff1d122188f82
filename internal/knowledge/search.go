package knowledge

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"unicode"

	"github.com/countersign/countersign/internal/storage"
)

// Query is what is looked for: any of the words, in what one of the readers may
// read. Empty filters select everything.
type Query struct {
	Words                                     []string
	Readers                                   []string
	Owner, Classification, Source, Collection string
}

// Limits of a query.
const (
	maxWords = 32
	maxWord  = 64
	maxFound = 1000 // documents that are ranked; see Words
)

// Words returns the words of a text: runs of letters and digits, each once.
func Words(s string) []string {
	var out []string
	for _, w := range strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) }) {
		if w = strings.ToLower(w); len(w) <= maxWord && len(out) < maxWords && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

// Search calls visit with the documents found, the best first, until it returns
// false. Each is read when its turn comes, with its readers as they are then.
func (s *Service) Search(ctx context.Context, connection string, q Query, visit func(Document) bool) error {
	if len(q.Words) == 0 || len(q.Readers) == 0 {
		return nil
	}
	find := s.findLite
	if s.db.Dialect() == storage.Postgres {
		find = s.findPostgres
	}
	found, err := find(ctx, connection, q)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	for _, seq := range found {
		d, ok, err := documentBySeq(ctx, s.db, seq)
		if err != nil {
			return storage.ErrUnavailable.With(err)
		}
		if ok && q.admits(d) && !visit(d) { // it may have changed since it was found
			return nil
		}
	}
	return nil
}

// admits reports whether a document is one that may be found.
func (q Query) admits(d Document) bool {
	for _, f := range [][2]string{{q.Owner, d.Owner}, {q.Classification, d.Classification}, {q.Source, d.Source}, {q.Collection, d.Collection}} {
		if f[0] != "" && f[0] != f[1] {
			return false
		}
	}
	return readable(d, q.Readers)
}

func readable(d Document, readers []string) bool {
	return slices.ContainsFunc(d.Readers, func(r string) bool { return slices.Contains(readers, r) })
}

// Get returns one document that one of the readers may read. ErrNotFound else,
// whether or not there is one.
func (s *Service) Get(ctx context.Context, connection, id string, readers []string) (Document, error) {
	d, ok, err := documentRow(ctx, s.db, connection, id)
	if err != nil {
		return Document{}, storage.ErrUnavailable.With(err)
	}
	if !ok || !readable(d, readers) {
		return Document{}, ErrNotFound
	}
	return d, nil
}

// conditions are those of a query on d, with placeholders after those of args.
func (q Query) conditions(connection string, args *[]any) string {
	mark := func(v any) string { *args = append(*args, v); return "$" + itoa(len(*args)) }
	out := []string{"d.connection = " + mark(connection)}
	for _, f := range [][2]string{{"owner", q.Owner}, {"classification", q.Classification}, {"source", q.Source}, {"collection", q.Collection}} {
		if f[1] != "" {
			out = append(out, "d."+f[0]+" = "+mark(f[1]))
		}
	}
	marks := make([]string, len(q.Readers))
	for i, r := range q.Readers {
		marks[i] = mark(r)
	}
	out = append(out, "EXISTS (SELECT 1 FROM knowledge_readers r WHERE r.seq = d.seq AND r.reader IN ("+strings.Join(marks, ", ")+"))")
	return strings.Join(out, " AND ")
}

// hit is a document with how well it matches.
type hit struct {
	seq   int64
	id    string
	score float64
}

// findLite asks FTS5 for each word by itself. The order is not bm25's, which
// counts words in all documents: it is by how often each word stands in the
// document, so that what may not be read has no part in it.
func (s *Service) findLite(ctx context.Context, connection string, q Query) ([]int64, error) {
	scores := map[int64]*hit{}
	for _, w := range q.Words {
		if err := s.countLite(ctx, connection, q, w, scores); err != nil {
			return nil, err
		}
	}
	found := make([]hit, 0, len(scores))
	for _, h := range scores {
		found = append(found, *h)
	}
	slices.SortFunc(found, func(a, b hit) int { return cmp.Or(cmp.Compare(b.score, a.score), strings.Compare(a.id, b.id)) })
	out := make([]int64, 0, min(len(found), maxFound))
	for _, h := range found[:min(len(found), maxFound)] {
		out = append(out, h.seq)
	}
	return out, nil
}

// countLite adds how well one word matches each document.
func (s *Service) countLite(ctx context.Context, connection string, q Query, word string, scores map[int64]*hit) error {
	args := []any{`"` + strings.ReplaceAll(word, `"`, `""`) + `"`}
	rows, err := s.db.Query(ctx, `SELECT d.seq, d.id, length(highlight(search_knowledge, 0, '<', '>')) - length(d.title), length(highlight(search_knowledge, 1, '<', '>')) - length(d.text), length(d.text)
			FROM search_knowledge JOIN knowledge_documents d ON d.seq = search_knowledge.rowid
			WHERE search_knowledge MATCH $1 AND `+q.conditions(connection, &args), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var h hit
		var title, text, size float64
		if err := rows.Scan(&h.seq, &h.id, &title, &text, &size); err != nil {
			return err
		}
		often := 2*title + text/2
		if scores[h.seq] == nil {
			scores[h.seq] = &h
		}
		scores[h.seq].score += often / (often + 1 + size/2000)
	}
	return rows.Err()
}

// findPostgres ranks by ts_rank, which looks at one document alone.
func (s *Service) findPostgres(ctx context.Context, connection string, q Query) ([]int64, error) {
	var args []any
	words := make([]string, len(q.Words))
	for i, w := range q.Words {
		args = append(args, w)
		words[i] = "plainto_tsquery('english', $" + itoa(i+1) + ")"
	}
	some := "(" + strings.Join(words, " || ") + ")"
	rows, err := s.db.Query(ctx, `SELECT d.seq FROM knowledge_documents d WHERE to_tsvector('english', d.title || ' ' || d.text) @@ `+some+` AND `+q.conditions(connection, &args)+`
		ORDER BY ts_rank(to_tsvector('english', d.title || ' ' || d.text), `+some+`, 1) DESC, d.id COLLATE "C" LIMIT `+itoa(maxFound), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []int64
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, err
		}
		out = append(out, seq)
	}
	return out, rows.Err()
}
