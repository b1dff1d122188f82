package knowledge

import (
	"context"
	"database/sql"
	"strconv"

	"github.com/countersign/countersign/internal/storage"
)

func itoa(n int) string { return strconv.Itoa(n) }

const columns = `seq, id, title, text, owner, classification, source, collection, digest, put_by, updated`

// listed is the same without the text.
const listed = `seq, id, title, '', owner, classification, source, collection, digest, put_by, updated`

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, q string, args ...any) *sql.Row
}

type scanner interface{ Scan(dest ...any) error }

func scan(row scanner) (Document, error) {
	var d Document
	var updated int64
	err := row.Scan(&d.seq, &d.ID, &d.Title, &d.Text, &d.Owner, &d.Classification, &d.Source, &d.Collection, &d.Digest, &d.PutBy, &updated)
	d.Updated = storage.Time(updated)
	return d, err
}

func documentRow(ctx context.Context, q querier, connection, id string) (Document, bool, error) {
	return withReaders(ctx, q, q.QueryRow(ctx, `SELECT `+columns+` FROM knowledge_documents WHERE connection = $1 AND id = $2`, connection, id))
}

func documentBySeq(ctx context.Context, q querier, seq int64) (Document, bool, error) {
	return withReaders(ctx, q, q.QueryRow(ctx, `SELECT `+columns+` FROM knowledge_documents WHERE seq = $1`, seq))
}

func withReaders(ctx context.Context, q querier, row scanner) (Document, bool, error) {
	d, err := scan(row)
	if storage.NoRows(err) {
		return Document{}, false, nil
	}
	if err != nil {
		return Document{}, false, err
	}
	readers, err := readersOf(ctx, q, `SELECT seq, reader FROM knowledge_readers WHERE seq = $1 ORDER BY reader`, d.seq)
	d.Readers = readers[d.seq]
	return d, err == nil, err
}

func readersOf(ctx context.Context, q querier, query string, args ...any) (map[int64][]string, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[int64][]string{}
	for rows.Next() {
		var seq int64
		var reader string
		if err := rows.Scan(&seq, &reader); err != nil {
			return nil, err
		}
		out[seq] = append(out[seq], reader)
	}
	return out, rows.Err()
}

// documentRows are the documents of a connection without their texts.
func documentRows(ctx context.Context, q querier, connection string) ([]Document, error) {
	readers, err := readersOf(ctx, q, `SELECT r.seq, r.reader FROM knowledge_readers r JOIN knowledge_documents d ON d.seq = r.seq WHERE d.connection = $1 ORDER BY r.seq, r.reader`, connection)
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, `SELECT `+listed+` FROM knowledge_documents WHERE connection = $1 ORDER BY id`, connection)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Document{}
	for rows.Next() {
		d, err := scan(rows)
		if err != nil {
			return nil, err
		}
		if d.Readers = readers[d.seq]; d.Readers == nil {
			d.Readers = []string{}
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

// replace writes a document in the place of the one of its name.
func replace(ctx context.Context, tx *storage.Tx, connection string, d Document) error {
	if err := drop(ctx, tx, connection, d.ID); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO knowledge_documents (seq, connection, id, title, text, owner, classification, source, collection, digest, put_by, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
		d.seq, connection, d.ID, d.Title, d.Text, d.Owner, d.Classification, d.Source, d.Collection, d.Digest, d.PutBy, storage.Micros(d.Updated))
	if err != nil {
		return err
	}
	for _, r := range d.Readers {
		if _, err := tx.Exec(ctx, `INSERT INTO knowledge_readers (seq, reader) VALUES ($1, $2)`, d.seq, r); err != nil {
			return err
		}
	}
	return nil
}

func drop(ctx context.Context, tx *storage.Tx, connection, id string) error {
	_, err := tx.Exec(ctx, `DELETE FROM knowledge_documents WHERE connection = $1 AND id = $2`, connection, id)
	return err
}
