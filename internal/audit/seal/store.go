package seal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/storage"
)

type store struct{ db *storage.DB }

func hashOf(b []byte) (tlog.Hash, error) {
	if len(b) != len(tlog.Hash{}) {
		return tlog.Hash{}, ErrBroken.Say("a hash in the database has %d bytes", len(b))
	}
	return tlog.Hash(b), nil
}

func (s store) head(ctx context.Context) (h head, err error) {
	var root []byte
	err = s.db.QueryRow(ctx, `SELECT size, root, key, blocked FROM seal_head WHERE name = 'log'`).Scan(&h.size, &root, &h.key, &h.blocked)
	if err != nil {
		return h, storage.ErrUnavailable.With(err)
	}
	h.root, err = hashOf(root)
	return h, err
}

// extend moves the tree from b.was to b.is. errMoved if it is elsewhere.
func (s store) extend(ctx context.Context, tx *storage.Tx, b *batch, now time.Time) error {
	err := tx.ExecOne(ctx, `UPDATE seal_head SET size = $1, root = $2 WHERE name = 'log' AND size = $3 AND root = $4 AND key = $5 AND blocked = ''`,
		b.is.size, b.is.root[:], b.was.size, b.was.root[:], b.was.key)
	if errors.Is(err, storage.ErrNotFound) {
		return errMoved
	}
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	for _, t := range b.tiles {
		if _, err := tx.Exec(ctx, `INSERT INTO tiles (level, idx, width, bytes) VALUES ($1, $2, $3, $4)
			ON CONFLICT (level, idx) DO UPDATE SET width = $3, bytes = $4 WHERE tiles.width < $3`, t.tile.Level, t.tile.Index, t.tile.Width, t.bytes); err != nil {
			return fmt.Errorf("write a tile: %w", err)
		}
	}
	for _, p := range b.spans {
		if _, err := tx.Exec(ctx, `INSERT INTO leaves (idx, lane, sn, n) VALUES ($1, $2, $3, $4)`, p.idx, p.lane, p.sn, p.n); err != nil {
			return fmt.Errorf("write leaves: %w", err)
		}
	}
	for lane, end := range b.lanes {
		if _, err := tx.Exec(ctx, `INSERT INTO seal_lanes (lane, sn, chain) VALUES ($1, $2, $3)
			ON CONFLICT (lane) DO UPDATE SET sn = $2, chain = $3`, lane, end.sn, end.chain[:]); err != nil {
			return fmt.Errorf("write a lane's end: %w", err)
		}
	}
	if _, err := tx.Exec(ctx, `INSERT INTO checkpoints (size, root, key, note, at) VALUES ($1, $2, $3, $4, $5)`,
		b.is.size, b.is.root[:], b.is.key, b.note, storage.Micros(now)); err != nil {
		return fmt.Errorf("write a checkpoint: %w", err)
	}
	return nil
}

// tile returns a tile, cut from a wider one if that is what there is.
func (s store) tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	var width int
	var b []byte
	err := s.db.QueryRow(ctx, `SELECT width, bytes FROM tiles WHERE level = $1 AND idx = $2`, t.Level, t.Index).Scan(&width, &b)
	switch {
	case storage.NoRows(err):
		return nil, ErrNoTile
	case err != nil:
		return nil, storage.ErrUnavailable.With(err)
	case width < t.Width:
		return nil, ErrNoTile
	case len(b) != width*len(tlog.Hash{}):
		return nil, ErrBroken.Say("%s in the database has %d bytes", t.Path(), len(b))
	}
	return b[:t.Width*len(tlog.Hash{})], nil
}

func (s store) lanes(ctx context.Context) (map[int64]laneEnd, error) {
	rows, err := s.db.Query(ctx, `SELECT lane, sn, chain FROM seal_lanes`)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := map[int64]laneEnd{}
	for rows.Next() {
		var lane int64
		var end laneEnd
		var chain []byte
		if err := rows.Scan(&lane, &end.sn, &chain); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		h, err := hashOf(chain)
		if err != nil {
			return nil, err
		}
		end.chain = audit.Hash(h)
		out[lane] = end
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// index returns where in the tree a record is, ErrNotSealed if it is not yet.
func (s store) index(ctx context.Context, lane, sn int64) (int64, error) {
	var p span
	err := s.db.QueryRow(ctx, `SELECT idx, sn, n FROM leaves WHERE lane = $1 AND sn <= $2 ORDER BY sn DESC LIMIT 1`, lane, sn).Scan(&p.idx, &p.sn, &p.n)
	switch {
	case storage.NoRows(err):
		return 0, ErrNotSealed
	case err != nil:
		return 0, storage.ErrUnavailable.With(err)
	case sn >= p.sn+p.n:
		return 0, ErrNotSealed
	}
	return p.idx + sn - p.sn, nil
}

// spans returns at most limit spans that hold leaves from lo on, the first one
// maybe beginning before it.
func (s store) spans(ctx context.Context, lo, hi int64, limit int) ([]span, error) {
	rows, err := s.db.Query(ctx, `SELECT idx, lane, sn, n FROM leaves
		WHERE idx >= coalesce((SELECT max(idx) FROM leaves WHERE idx <= $1), $1) AND idx < $2 ORDER BY idx LIMIT $3`, lo, hi, limit)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []span
	for rows.Next() {
		var p span
		if err := rows.Scan(&p.idx, &p.lane, &p.sn, &p.n); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		out = append(out, p)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// Checkpoint is a signed tree head as it is stored.
type Checkpoint struct {
	Size         int64     `json:"size" doc:"records it covers"`
	Root         string    `json:"root" doc:"base64"`
	At           time.Time `json:"at"`
	Note         string    `json:"note" doc:"C2SP tlog-checkpoint, signed, with the cosignatures"`
	Cosignatures []string  `json:"cosignatures,omitempty" doc:"names of the witnesses that cosigned it"`
}

const checkpointColumns = `SELECT size, root, note, at FROM checkpoints`

func (s store) checkpoints(ctx context.Context, where string, args ...any) ([]Checkpoint, error) {
	rows, err := s.db.Query(ctx, checkpointColumns+where, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []Checkpoint{}
	for rows.Next() {
		var c Checkpoint
		var root []byte
		var at int64
		if err := rows.Scan(&c.Size, &root, &c.Note, &at); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		h, err := hashOf(root)
		if err != nil {
			return nil, err
		}
		c.Root, c.At = h.String(), storage.Time(at)
		out = append(out, c)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// cosign adds to checkpoints, sorted by size in any direction, their cosignatures.
func (s store) cosign(ctx context.Context, cs []Checkpoint) error {
	if len(cs) == 0 {
		return nil
	}
	lo, hi := cs[0].Size, cs[len(cs)-1].Size
	rows, err := s.db.Query(ctx, `SELECT size, witness, line FROM cosignatures WHERE size >= $1 AND size <= $2 ORDER BY size, witness`, min(lo, hi), max(lo, hi))
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	by := map[int64]int{}
	for i, c := range cs {
		by[c.Size] = i
	}
	for rows.Next() {
		var size int64
		var name, line string
		if err := rows.Scan(&size, &name, &line); err != nil {
			return storage.ErrUnavailable.With(err)
		}
		if i, ok := by[size]; ok {
			cs[i].Note += line
			cs[i].Cosignatures = append(cs[i].Cosignatures, name)
		}
	}
	if err := rows.Err(); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	return nil
}

// newest returns the newest checkpoint, nil if there is none.
func (s store) newest(ctx context.Context) (*Checkpoint, error) {
	cs, err := s.checkpoints(ctx, ` ORDER BY size DESC LIMIT 1`)
	if err != nil || len(cs) == 0 {
		return nil, err
	}
	return &cs[0], s.cosign(ctx, cs)
}

// covering returns the checkpoint to prove a leaf with: the newest with the
// most cosignatures that covers it.
func (s store) covering(ctx context.Context, index int64) (*Checkpoint, error) {
	cs, err := s.checkpoints(ctx, ` WHERE size = (SELECT c.size FROM cosignatures AS c WHERE c.size > $1 GROUP BY c.size ORDER BY count(*) DESC, c.size DESC LIMIT 1)`, index)
	if err != nil {
		return nil, err
	}
	if len(cs) == 0 {
		if cs, err = s.checkpoints(ctx, ` WHERE size > $1 ORDER BY size DESC LIMIT 1`, index); err != nil {
			return nil, err
		}
	}
	if len(cs) == 0 {
		return nil, ErrNotSealed
	}
	return &cs[0], s.cosign(ctx, cs)
}

// addCosignature keeps a witness's verified signature line.
func (s store) addCosignature(ctx context.Context, size int64, witness, line string, at time.Time) error {
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO cosignatures (size, witness, line, at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (size, witness) DO UPDATE SET line = $3, at = $4`, size, witness, line, storage.Micros(at))
		return err
	})
}

// cosigned returns the largest size that a witness has cosigned, 0 if none.
func (s store) cosigned(ctx context.Context, witness string) (int64, error) {
	var size int64
	if err := s.db.QueryRow(ctx, `SELECT coalesce(max(size), 0) FROM cosignatures WHERE witness = $1`, witness).Scan(&size); err != nil {
		return 0, storage.ErrUnavailable.With(err)
	}
	return size, nil
}

// lanesAt returns where each lane stood when the tree had size leaves. It
// reads the spans before, so it is for exports.
func (s store) lanesAt(ctx context.Context, size int64) (map[int64]int64, error) {
	rows, err := s.db.Query(ctx, `SELECT lane, max(CASE WHEN idx + n > $1 THEN sn + $1 - idx ELSE sn + n END) - 1 FROM leaves WHERE idx < $1 GROUP BY lane`, size)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := map[int64]int64{}
	for rows.Next() {
		var lane, sn int64
		if err := rows.Scan(&lane, &sn); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		out[lane] = sn
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// thin removes checkpoints older than before, except the last of each hour and
// those with cosignatures, at most limit of them. What they said stays
// provable: the tree yields the root at any size.
func (s store) thin(ctx context.Context, before time.Time, limit int) (int64, error) {
	var n int64
	err := s.db.Tx(ctx, func(tx *storage.Tx) error {
		res, err := tx.Exec(ctx, `DELETE FROM checkpoints WHERE size IN (
			SELECT size FROM (SELECT size, at, lead(at) OVER (ORDER BY size) AS following FROM checkpoints WHERE at < $1) AS c
			WHERE c.following / 3600000000 = c.at / 3600000000 AND NOT EXISTS (SELECT 1 FROM cosignatures AS k WHERE k.size = c.size)
			ORDER BY size LIMIT $2)`, storage.Micros(before), limit)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}
