package audit

import (
	"bytes"
	"context"

	"github.com/countersign/countersign/internal/storage"
)

// adoptChunk is how many payloads one transaction encrypts.
const adoptChunk = 32

// plainRow is a payload from before there were keys.
type plainRow struct {
	lane, sn, n        int64
	name, event, agent string
	plain              []byte // salt and body
}

// adopt encrypts the payloads that stand in plain, as databases from before
// there were keys have them, and returns how many. Their commitments stay.
func (l *Log) adopt(ctx context.Context) (int64, error) {
	var total int64
	at := plainRow{lane: -1}
	for {
		rows, err := l.plainRows(ctx, at)
		if err != nil || len(rows) == 0 {
			return total, err
		}
		keys := make([]*dataKey, len(rows))
		for i, r := range rows {
			if keys[i], err = l.keys.get(ctx, l.keys.owner(r.agent, "")); err != nil {
				return total, err
			}
		}
		err = l.db.Tx(ctx, func(tx *storage.Tx) error {
			if err := l.overwrite(ctx, tx); err != nil {
				return err
			}
			for i, r := range rows {
				p := sealed{name: r.name, buf: append(freshNonce(), r.plain...)}
				p.lock(keys[i], r.event)
				if _, err := tx.Exec(ctx, `UPDATE payloads SET salt = NULL, body = $1, key = $2 WHERE lane = $3 AND sn = $4 AND n = $5 AND key = 0 AND body IS NOT NULL`,
					p.buf, p.key, r.lane, r.sn, r.n); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return total, unavailable(err)
		}
		total += int64(len(rows))
		at = rows[len(rows)-1]
	}
}

func (l *Log) plainRows(ctx context.Context, at plainRow) ([]plainRow, error) {
	rows, err := l.db.Query(ctx, `SELECT p.lane, p.sn, p.n, p.name, p.salt, p.body, e.id, e.agent FROM payloads AS p JOIN events AS e ON e.lane = p.lane AND e.sn = p.sn
		WHERE p.key = 0 AND p.body IS NOT NULL AND p.salt IS NOT NULL AND (p.lane, p.sn, p.n) > ($1, $2, $3) ORDER BY p.lane, p.sn, p.n LIMIT $4`, at.lane, at.sn, at.n, adoptChunk)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []plainRow
	for rows.Next() {
		var r plainRow
		var salt, body []byte
		if err := rows.Scan(&r.lane, &r.sn, &r.n, &r.name, &salt, &body, &r.event, &r.agent); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		r.plain = append(bytes.Clone(salt), body...)
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}
