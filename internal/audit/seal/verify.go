package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/tlog"
)

// Report is what Verify found.
type Report struct {
	Records     int64
	Tiles       int64
	Checkpoints int64
	Size        int64     // of the tree when Verify began
	Problems    []Problem // where the log and its tree differ; empty means it is whole
}

// Problem is a place where the log is not what was sealed.
type Problem struct {
	Where   string
	Message string
}

func (p Problem) Error() string { return p.Where + ": " + p.Message }

// maxProblems is how many problems Verify reports before it ends.
const maxProblems = 20

// verification is a walk over the tree, from its first leaf on.
type verification struct {
	s    *Service
	rep  *Report
	size int64
	lo   int64 // where it begins
	b    *tlog.Builder
	next []Checkpoint // to compare with, by size
	last int64        // size of the last one read
	keys tlog.Keys

	tile   []byte // of level 0, as stored, that holds the present leaf
	lanes  map[int64]laneEnd
	change func(done int64)
}

var errEnough = errors.New("enough problems")

// Verify compares every record with its leaf, every stored tile with the
// leaves beneath it, and every checkpoint with the tree at its size and with
// the log's key. It reports what it found and returns an error only if it
// could not look. Together with the log's own Verify it covers everything that
// was written. progress, if not nil, is told how many records are done.
func (s *Service) Verify(ctx context.Context, progress func(done int64)) (Report, error) {
	h, err := s.store.head(ctx)
	if err != nil {
		return Report{}, err
	}
	return s.verify(ctx, h, 0, h.size, progress)
}

// VerifySlice verifies what Verify verifies, for about budget leaves from one
// on, and returns where the next slice begins: 0 if there is none. The tree
// before is believed: whoever goes on from slice to slice has verified it.
func (s *Service) VerifySlice(ctx context.Context, from, budget int64) (Report, int64, error) {
	h, err := s.store.head(ctx)
	if err != nil {
		return Report{}, 0, err
	}
	from = max(0, min(from, h.size)) / tlog.TileWidth * tlog.TileWidth
	to := min(h.size, from+(max(budget, 1)+tlog.TileWidth-1)/tlog.TileWidth*tlog.TileWidth)
	rep, err := s.verify(ctx, h, from, to, nil)
	if to == h.size {
		to = 0
	}
	return rep, to, err
}

// verify looks at the leaves [lo, hi), and at the tree's end if that is where
// hi is.
func (s *Service) verify(ctx context.Context, h head, lo, hi int64, progress func(done int64)) (Report, error) {
	v := verification{s: s, rep: &Report{Size: h.size}, size: h.size, lo: lo, last: lo, lanes: map[int64]laneEnd{}, change: progress}
	err := v.begin(ctx)
	if err == nil {
		err = s.each(ctx, lo, hi, func(idx int64, p span, sn int64, _, record []byte) error {
			return v.leaf(ctx, idx, p, sn, record)
		})
	}
	switch {
	case err != nil:
	case hi == h.size:
		err = v.end(ctx, h)
	default:
		err = v.partial(ctx)
	}
	if errors.Is(err, ErrBroken) {
		v.rep.Problems = append(v.rep.Problems, Problem{"tree", err.Error()})
		err = nil
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	return *v.rep, err
}

// begin takes up the tree as it is stored before the first leaf.
func (v *verification) begin(ctx context.Context) error {
	rows, err := v.s.store.keys(ctx)
	if err != nil {
		return err
	}
	if v.keys, err = publicKeys(rows); err != nil {
		return err
	}
	if v.b, err = tlog.NewBuilder(v.lo, v.s.tile(ctx)); err != nil {
		return broken(err)
	}
	if v.lo == 0 {
		return nil
	}
	ends, err := v.s.store.lanesAt(ctx, v.lo)
	if err != nil {
		return err
	}
	for lane, sn := range ends {
		v.lanes[lane] = laneEnd{sn: sn}
	}
	return nil
}

func publicKeys(rows []keyRow) (tlog.Keys, error) {
	var rotations []string
	for _, r := range rows[1:] {
		rotations = append(rotations, r.rotation)
	}
	keys, err := tlog.OpenKeys(rows[0].vkey, rotations)
	if err != nil {
		return nil, ErrBroken.Say("the log's keys do not follow from each other").With(err)
	}
	return keys, nil
}

func (v *verification) wrong(where, format string, args ...any) error {
	v.rep.Problems = append(v.rep.Problems, Problem{where, fmt.Sprintf(format, args...)})
	if len(v.rep.Problems) >= maxProblems {
		return errEnough
	}
	return nil
}

// leaf takes the next leaf. The tree goes on with what is stored, not with
// what the record hashes to, so that one changed record is one problem.
func (v *verification) leaf(ctx context.Context, idx int64, p span, sn int64, record []byte) error {
	off := int(idx % tlog.TileWidth)
	if off == 0 || v.tile == nil {
		t := tlog.Tile{Level: 0, Index: idx / tlog.TileWidth, Width: int(min(tlog.TileWidth, v.size-idx))}
		var err error
		if v.tile, err = v.s.store.tile(ctx, t); errors.Is(err, ErrNoTile) {
			return ErrBroken.Say("%s is missing", t.Path())
		} else if err != nil {
			return err
		}
		if v.change != nil {
			v.change(v.rep.Records)
		}
	}
	stored := tlog.Hash(v.tile[off*len(tlog.Hash{}):][:len(tlog.Hash{})])
	if tlog.Hash(audit.LeafHash(record)) != stored {
		if err := v.wrong(fmt.Sprintf("record %d (lane %d, sn %d)", idx, p.lane, sn), "it is not what was sealed: its hash differs from the leaf in tile %d, hash %d", idx/tlog.TileWidth, off); err != nil {
			return err
		}
	}
	if before := v.lanes[p.lane].sn; sn != before+1 {
		if err := v.wrong(fmt.Sprintf("record %d (lane %d, sn %d)", idx, p.lane, sn), "record %d of its lane was expected", before+1); err != nil {
			return err
		}
	}
	v.lanes[p.lane] = laneEnd{sn: sn}
	v.rep.Records++
	var wrong error
	v.b.Append(stored, func(t tlog.Tile, hashes []tlog.Hash) { wrong = errors.Join(wrong, v.compare(ctx, t, hashes)) })
	if wrong != nil {
		return wrong
	}
	return v.checkpoint(ctx)
}

// compare compares a tile with what is stored; level 0 is what was read.
func (v *verification) compare(ctx context.Context, t tlog.Tile, hashes []tlog.Hash) error {
	v.rep.Tiles++
	if t.Level == 0 {
		return nil
	}
	b, err := v.s.store.tile(ctx, t)
	if errors.Is(err, ErrNoTile) {
		return v.wrong(t.Path(), "is missing")
	}
	if err != nil {
		return err
	}
	want := tlog.EncodeTile(hashes)
	for i := range hashes {
		if at := i * len(tlog.Hash{}); !bytes.Equal(b[at:at+len(tlog.Hash{})], want[at:at+len(tlog.Hash{})]) {
			return v.wrong(t.Path(), "hash %d is not that of the tile beneath: one of them was changed", i)
		}
	}
	return nil
}

// checkpoint compares the tree with the checkpoint of its present size, if
// there is one.
func (v *verification) checkpoint(ctx context.Context) error {
	if len(v.next) == 0 && v.last < v.size {
		var err error
		if v.next, err = v.s.store.checkpoints(ctx, ` WHERE size > $1 AND size <= $2 ORDER BY size LIMIT 1000`, v.last, v.size); err != nil {
			return err
		}
		v.last = v.size
		if len(v.next) > 0 {
			v.last = v.next[len(v.next)-1].Size
		}
	}
	if len(v.next) == 0 || v.next[0].Size != v.b.Size() {
		return nil
	}
	c := v.next[0]
	v.next = v.next[1:]
	v.rep.Checkpoints++
	where := fmt.Sprintf("checkpoint of %d records", c.Size)
	signed, err := tlog.OpenCheckpoint([]byte(c.Note), v.keys, nil)
	switch root := v.b.Root(); {
	case err != nil:
		return v.wrong(where, "%s", err)
	case signed.Size != c.Size || signed.Root.String() != c.Root:
		return v.wrong(where, "its columns differ from its text")
	case signed.Root != root:
		return v.wrong(where, "the tree has root %s at this size, the checkpoint says %s: a tile up to here was changed", root, signed.Root)
	}
	return nil
}

// partial compares the tiles that are begun.
func (v *verification) partial(ctx context.Context) error {
	var wrong error
	v.b.Partial(func(t tlog.Tile, hashes []tlog.Hash) { wrong = errors.Join(wrong, v.compare(ctx, t, hashes)) })
	return wrong
}

func (v *verification) end(ctx context.Context, h head) error {
	if err := v.partial(ctx); err != nil {
		return err
	}
	if v.b.Root() != h.root {
		if err := v.wrong("tree", "its head does not have the root of its leaves"); err != nil {
			return err
		}
	}
	sealed, err := v.s.store.lanes(ctx)
	if err != nil {
		return err
	}
	for lane, end := range sealed {
		if now, err := v.s.store.head(ctx); err != nil {
			return err
		} else if now.size == h.size && end.sn != v.lanes[lane].sn {
			if err := v.wrong(fmt.Sprintf("lane %d", lane), "is sealed up to %d, its leaves end at %d", end.sn, v.lanes[lane].sn); err != nil {
				return err
			}
		}
	}
	if c, err := v.s.store.checkpoints(ctx, ` WHERE size = $1`, h.size); err != nil {
		return err
	} else if len(c) == 0 && h.size > 0 {
		return v.wrong("tree", "there is no checkpoint of its size, %d", h.size)
	}
	return nil
}
