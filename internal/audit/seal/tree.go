package seal

import (
	"context"
	"errors"
	"maps"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

// head is the one row that knows the tree's end.
type head struct {
	size    int64
	root    tlog.Hash
	key     int64
	blocked string
}

type laneEnd struct {
	sn    int64
	chain audit.Hash
}

// tree is the sealed log as this process knows it.
type tree struct {
	head
	b      *tlog.Builder
	lanes  map[int64]laneEnd
	signer note.Signer
	origin string
}

// span says that leaves idx… are records sn… of lane, n of them.
type span struct{ idx, lane, sn, n int64 }

type tileRow struct {
	tile  tlog.Tile
	bytes []byte
}

// batch is what one transaction adds to the tree.
type batch struct {
	was, is    head
	b          *tlog.Builder
	lanes      map[int64]laneEnd // those that moved
	spans      []span
	tiles      []tileRow
	checkpoint tlog.Checkpoint
	note       string
}

// load reads the tree and compares it with the newest checkpoint that this
// process has seen.
func (s *Service) load(ctx context.Context) error {
	s.tree = nil
	h, err := s.store.head(ctx)
	if err != nil {
		return err
	}
	if err := s.standing(h); err != nil {
		return err
	}
	keys, err := s.store.keys(ctx)
	if err != nil {
		return err
	}
	if err := s.checkSeen(ctx, h, keys); err != nil {
		return err
	}
	s.blocked.Store(nil)
	t := &tree{head: h}
	if t.b, err = tlog.NewBuilder(h.size, s.tile(ctx)); err != nil {
		return broken(err)
	}
	if t.b.Root() != h.root {
		return ErrBroken.Say("the tree's last tiles do not have the root of its newest checkpoint, of size %d", h.size)
	}
	if t.lanes, err = s.store.lanes(ctx); err != nil {
		return err
	}
	if t.signer, t.origin, err = s.openKey(ctx, keys, h.key); err != nil {
		return err
	}
	s.tree = t
	return nil
}

// broken keeps a store that does not answer apart from a tree that is wrong.
func broken(err error) error {
	if errors.Is(err, storage.ErrUnavailable) || errors.Is(err, context.Canceled) {
		return err
	}
	return ErrBroken.Say("the tree cannot be read: %s", err).With(err)
}

// tile returns a reader of stored tiles.
func (s *Service) tile(ctx context.Context) func(tlog.Tile) ([]byte, error) {
	return func(t tlog.Tile) ([]byte, error) { return s.store.tile(ctx, t) }
}

// Step seals what is new, at most one transaction's worth, if this process is
// the leader or can become it, and returns how many records it sealed.
func (s *Service) Step(ctx context.Context) (int, error) {
	s.working.Lock()
	defer s.working.Unlock()
	n, err := s.step(ctx)
	if errors.Is(err, errMoved) || errors.Is(err, job.ErrFenced) {
		s.tree, s.held = nil, false
		return 0, nil
	}
	if err != nil {
		s.tree = nil
	}
	return n, err
}

func (s *Service) step(ctx context.Context) (int, error) {
	h, err := s.store.head(ctx)
	if err != nil {
		return 0, err
	}
	if err := s.standing(h); err != nil { // another replica may have found it
		return 0, err
	}
	if s.tree != nil && h.size < s.tree.size {
		s.tree = nil // the database was replaced beneath us
	}
	if s.tree == nil {
		if err := s.load(ctx); err != nil {
			return 0, err
		}
	}
	end, err := s.log.Head(ctx)
	if err != nil {
		return 0, err
	}
	if !s.tree.behind(end) {
		return 0, nil
	}
	if !s.held {
		if s.held, err = s.lead(ctx); err != nil || !s.held {
			return 0, errors.Join(err, s.follow(ctx))
		}
		if err := s.load(ctx); err != nil { // whoever led before us may have moved it
			return 0, err
		}
	}
	b, err := s.collect(ctx, end)
	if err != nil || len(b.spans) == 0 {
		return 0, err
	}
	if err := s.commit(ctx, b); err != nil {
		return 0, err
	}
	s.tree.head, s.tree.b = b.is, b.b
	maps.Copy(s.tree.lanes, b.lanes)
	s.remember(ctx, b.checkpoint, b.note)
	s.announce()
	return int(b.is.size - b.was.size), nil
}

// lead takes the lease if it is free. On SQLite the log's lock of the file has
// shown that every earlier holder is gone, so its lease need not expire.
func (s *Service) lead(ctx context.Context) (bool, error) {
	if s.db.Dialect() == storage.SQLite && !s.seized {
		err := s.lease.Seize(ctx)
		s.seized = err == nil
		return s.seized, err
	}
	return s.lease.Acquire(ctx)
}

// follow is what a replica does that does not lead: it keeps its own head file.
func (s *Service) follow(ctx context.Context) error {
	c, err := s.store.newest(ctx)
	if err != nil || c == nil {
		return err
	}
	if s.seen != nil && c.Size == s.seen.Size {
		return nil
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	cp, err := parseNote(c.Note)
	if err != nil {
		return broken(err)
	}
	s.remember(ctx, cp, c.Note)
	return nil
}

func (t *tree) behind(end audit.Cursor) bool {
	for lane, sn := range end {
		if sn > t.lanes[lane].sn {
			return true
		}
	}
	return false
}

// collect reads what is new, in no transaction, and makes of it what the
// transaction will write.
func (s *Service) collect(ctx context.Context, end audit.Cursor) (*batch, error) {
	t := s.tree
	b := &batch{was: t.head, b: t.b.Clone(), lanes: map[int64]laneEnd{}}
	fresh := slices.DeleteFunc(slices.Sorted(maps.Keys(end)), func(lane int64) bool { return end[lane] <= t.lanes[lane].sn })
	left := int64(s.batch())
	for i, lane := range fresh {
		from := t.lanes[lane]
		n := min(end[lane]-from.sn, max(1, left/int64(len(fresh)-i)))
		if err := s.collectLane(ctx, b, lane, from, n); err != nil {
			return nil, err
		}
		left -= n
	}
	b.b.Partial(func(tile tlog.Tile, hashes []tlog.Hash) {
		b.tiles = append(b.tiles, tileRow{tile, tlog.EncodeTile(hashes)})
	})
	b.is = head{size: b.b.Size(), root: b.b.Root(), key: t.key}
	b.checkpoint = tlog.Checkpoint{Origin: t.origin, Size: b.is.size, Root: b.is.root}
	var err error
	b.note, err = tlog.SignCheckpoint(b.checkpoint, t.signer)
	return b, err
}

func (s *Service) collectLane(ctx context.Context, b *batch, lane int64, from laneEnd, n int64) error {
	at := from
	b.spans = append(b.spans, span{idx: b.b.Size(), lane: lane, sn: from.sn + 1, n: n})
	err := s.log.Raw(ctx, lane, from.sn, from.sn+n, func(sn int64, chain, record []byte) error {
		if sn != at.sn+1 {
			return ErrBroken.Say("lane %d, record %d of the log is missing: nothing is sealed", lane, at.sn+1)
		}
		leaf := audit.LeafHash(record)
		at = laneEnd{sn, audit.ChainHash(at.chain, lane, sn, leaf)}
		if string(chain) != string(at.chain[:]) {
			return ErrBroken.Say("lane %d, record %d of the log was changed before it was sealed: its chain does not match; nothing is sealed", lane, sn)
		}
		b.b.Append(leaf, func(tile tlog.Tile, hashes []tlog.Hash) {
			b.tiles = append(b.tiles, tileRow{tile, tlog.EncodeTile(hashes)})
		})
		return nil
	})
	if err == nil && at.sn != from.sn+n {
		err = ErrBroken.Say("lane %d, record %d of the log is missing: nothing is sealed", lane, at.sn+1)
	}
	b.lanes[lane] = at
	return err
}

// commit writes a batch if the lease is still ours and the tree is still where
// we left it.
func (s *Service) commit(ctx context.Context, b *batch) error {
	return s.db.Tx(ctx, func(tx *storage.Tx) error {
		if err := s.lease.Check(ctx, tx); err != nil {
			return err
		}
		return s.store.extend(ctx, tx, b, s.o.Now())
	})
}
