package tlog

import (
	"errors"
	"fmt"
)

// VerifyCheckpoint verifies the checkpoint of a log that fetch reads: by t.Key,
// which is required, or a key that rotations lead to from it.
func VerifyCheckpoint(fetch Fetch, t Trust, rotations []string) (Shown, error) {
	if t.Key == "" {
		return Shown{}, wrong("key", "the log's key must be known from elsewhere")
	}
	b, err := fetch("checkpoint")
	if err != nil {
		return Shown{}, failed("checkpoint", "cannot be read", err)
	}
	_, shown, err := t.open(b, t.Key, rotations)
	return shown, err
}

// VerifyServer verifies that a live log, read through fetch, extends an older
// checkpoint of it: the tiles yield a proof from one to the other. older is a
// signed checkpoint kept from before.
func VerifyServer(fetch Fetch, older []byte, t Trust, rotations []string) (was, is Shown, err error) {
	if is, err = VerifyCheckpoint(fetch, t, rotations); err != nil {
		return was, is, err
	}
	_, was, err = Trust{Key: t.Key}.open(older, t.Key, rotations)
	if err != nil {
		return was, is, failed("the older checkpoint", "is not one", err)
	}
	if was.Size > is.Size {
		return was, is, wrong("checkpoint", "the log has shrunk: from %d entries to %d", was.Size, is.Size)
	}
	nodes := TileNodes(is.Size, getFrom(fetch))
	root, err := Root(is.Size, nodes)
	if err != nil {
		return was, is, err
	}
	if root != is.Root {
		return was, is, wrong("tiles", "they have another root than the checkpoint of %d entries; verify them all to find out which is wrong", is.Size)
	}
	proof, err := ProveConsistency(was.Size, is.Size, nodes)
	if err != nil {
		return was, is, err
	}
	if err := VerifyConsistency(was.Size, is.Size, was.Root, is.Root, proof); err != nil {
		return was, is, failed("checkpoint", fmt.Sprintf("the log of %d entries is not an extension of what it was at %d: it was rewritten", is.Size, was.Size), err)
	}
	return was, is, nil
}

// VerifyTiles verifies every tile, and every bundle of entries if withEntries,
// of the log that fetch reads. It finds the hash or the entry that is wrong.
// progress, if not nil, is told how many entries are done.
func VerifyTiles(fetch Fetch, t Trust, rotations []string, withEntries bool, progress func(done int64)) (Shown, error) {
	shown, err := VerifyCheckpoint(fetch, t, rotations)
	if err != nil || shown.Size == 0 {
		return shown, err
	}
	w := walk{size: shown.Size, get: getFrom(fetch), fetch: fetch, entries: withEntries, progress: progress, shown: &shown}
	root, err := Root(shown.Size, TileNodes(shown.Size, w.get))
	if err != nil {
		return shown, err
	}
	w.sound = root == shown.Root
	return shown, w.all()
}

// walk checks tiles from the top down: a tile that its parent vouches for is
// sound, and so the place of a fault is known. The partial tiles at the right
// edge are vouched for by the root alone, all at once; if they do not have the
// root (not sound), the fault is in the one that differs from what is beneath.
type walk struct {
	size     int64
	get      func(Tile) ([]byte, error)
	fetch    Fetch
	entries  bool
	sound    bool
	progress func(int64)
	shown    *Shown
}

func (w *walk) all() error {
	top := 0
	for top < 7 && w.size>>(tileHeight*(top+1)) > 0 {
		top++
	}
	for level := top; level >= 0; level-- {
		n := w.size >> (tileHeight * level)
		if n%TileWidth == 0 {
			continue
		}
		if err := w.tile(tileAt(level, n-1, w.size), Hash{}, false); err != nil {
			return err
		}
	}
	if !w.sound {
		return wrong("tiles", "they have another root than the checkpoint of %d entries, and agree among each other: a hash of the last tile of level 0 is wrong, or the checkpoint is not of these tiles", w.size)
	}
	return nil
}

// tile checks a tile and everything beneath it. vouched says that want is its
// hash; otherwise it is one of the right edge.
func (w *walk) tile(t Tile, want Hash, vouched bool) error {
	raw, err := w.get(t)
	if err != nil {
		return failed(t.Path(), "cannot be read", err)
	}
	hashes, err := DecodeTile(raw, t.Width)
	if err != nil {
		return failed(t.Path(), "is damaged", err)
	}
	w.shown.Tiles++
	if vouched && perfect(hashes) != want {
		return w.blame(t, hashes)
	}
	if t.Level == 0 {
		w.shown.Entries += int64(t.Width)
		if w.progress != nil {
			w.progress(w.shown.Entries)
		}
		return w.bundle(t, hashes, vouched || w.sound)
	}
	for i, h := range hashes {
		child := Tile{Level: t.Level - 1, Index: t.Index*TileWidth + int64(i), Width: TileWidth}
		if !vouched && !w.sound {
			// h may be the hash that is wrong: ask the child.
			if got, err := w.hashOf(child); err != nil {
				return err
			} else if got != h {
				return wrong(t.Path(), "hash %d is not that of %s, and the tiles do not have the checkpoint's root: it was changed", i, child.Path())
			}
		}
		if err := w.tile(child, h, true); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) hashOf(t Tile) (Hash, error) {
	raw, err := w.get(t)
	if err != nil {
		return Hash{}, failed(t.Path(), "cannot be read", err)
	}
	hashes, err := DecodeTile(raw, t.Width)
	if err != nil {
		return Hash{}, failed(t.Path(), "is damaged", err)
	}
	return perfect(hashes), nil
}

// blame names the hash of a tile that does not fit what is beneath it.
func (w *walk) blame(t Tile, hashes []Hash) error {
	if t.Level > 0 {
		for i, h := range hashes {
			child := Tile{Level: t.Level - 1, Index: t.Index*TileWidth + int64(i), Width: TileWidth}
			if got, err := w.hashOf(child); err == nil && got != h {
				return wrong(fmt.Sprintf("%s, hash %d", t.Path(), i), "was changed: the tile does not have the hash that the one above names, nor this hash that of %s", child.Path())
			}
		}
	} else if w.entries {
		if err := w.bundle(t, hashes, false); err != nil {
			return err
		}
	}
	return wrong(t.Path(), "was changed: it does not have the hash that the tile above names")
}

// bundle compares the entries beneath a tile of level 0. sound says that the
// tile is known to be right, so that a difference is the entry's fault.
func (w *walk) bundle(t Tile, hashes []Hash, sound bool) error {
	if !w.entries {
		return nil
	}
	b := t
	b.Level = Entries
	raw, err := w.fetch(b.Path())
	if errors.Is(err, ErrAbsent) && b.Width < TileWidth {
		b.Width = TileWidth
		raw, err = w.fetch(b.Path())
	}
	if err != nil {
		return failed(b.Path(), "cannot be read", err)
	}
	entries, err := DecodeEntries(raw, b.Width)
	if err != nil {
		return failed(b.Path(), "is damaged", err)
	}
	for i, h := range hashes {
		if LeafHash(entries[i]) == h {
			continue
		}
		n := t.Index*TileWidth + int64(i)
		if sound {
			return wrong(fmt.Sprintf("record %d (%s, entry %d)", n, b.Path(), i), "was changed: its hash is not the one in the tree")
		}
		return wrong(fmt.Sprintf("%s, hash %d", t.Path(), i), "was changed: it is not the hash of record %d, and the tree has not the root of the checkpoint", n)
	}
	return nil
}
