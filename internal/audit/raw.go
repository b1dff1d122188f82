package audit

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/storage"
)

// Raw calls fn for the records of a lane in (from, to], in order, with their
// exact bytes and stored chains, undecoded. Both are valid during the call
// only. What is missing is left out: whoever must know counts.
func (l *Log) Raw(ctx context.Context, lane, from, to int64, fn func(sn int64, chain, record []byte) error) error {
	rows, err := l.db.Query(ctx, `SELECT sn, chain, record FROM events WHERE lane = $1 AND sn > $2 AND sn <= $3 ORDER BY sn`, lane, from, to)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		var sn int64
		var chain, record sql.RawBytes
		if err := rows.Scan(&sn, &chain, &record); err != nil {
			return storage.ErrUnavailable.With(err)
		}
		if err := fn(sn, chain, record); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	return nil
}

// Place returns the lane and number of an event, ErrNotFound if there is none.
func (l *Log) Place(ctx context.Context, event string) (lane, sn int64, err error) {
	err = l.db.QueryRow(ctx, `SELECT lane, sn FROM events WHERE id = $1`, clean(event)).Scan(&lane, &sn)
	switch {
	case storage.NoRows(err):
		return 0, 0, ErrNotFound
	case err != nil:
		return 0, 0, storage.ErrUnavailable.With(err)
	}
	return lane, sn, nil
}
