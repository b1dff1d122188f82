package tlog

import (
	"fmt"
	"slices"
)

// Builder appends leaves to a tree and yields its tiles. It holds at most one
// partial tile per level. It is not safe for concurrent use.
type Builder struct {
	size int64
	edge [][]Hash // per level of tiles, the hashes of the partial one, fewer than TileWidth
}

// NewBuilder returns the builder of a tree of size leaves, whose partial tiles
// it reads through get.
func NewBuilder(size int64, get func(Tile) ([]byte, error)) (*Builder, error) {
	if size < 0 {
		return nil, fmt.Errorf("a tree of %d leaves", size)
	}
	b := &Builder{size: size}
	for level := 0; level*tileHeight < 63 && size>>(tileHeight*level) > 0; level++ {
		n := size >> (tileHeight * level)
		t := Tile{Level: level, Index: n / TileWidth, Width: int(n % TileWidth)}
		if t.Width == 0 {
			b.edge = append(b.edge, nil)
			continue
		}
		raw, err := get(t)
		if err != nil {
			return nil, failed(t.Path(), "cannot be read", err)
		}
		hashes, err := DecodeTile(raw, t.Width)
		if err != nil {
			return nil, failed(t.Path(), "is damaged", err)
		}
		b.edge = append(b.edge, hashes)
	}
	return b, nil
}

// Clone returns a copy that shares nothing.
func (b *Builder) Clone() *Builder {
	c := &Builder{size: b.size, edge: make([][]Hash, len(b.edge))}
	for i := range b.edge {
		c.edge[i] = slices.Clone(b.edge[i])
	}
	return c
}

// Size returns the number of leaves.
func (b *Builder) Size() int64 { return b.size }

// Append adds a leaf. full is called for every tile that it completes, with
// hashes that are valid during the call.
func (b *Builder) Append(leaf Hash, full func(t Tile, hashes []Hash)) {
	b.size++
	h := leaf
	for level := 0; ; level++ {
		if level == len(b.edge) {
			b.edge = append(b.edge, nil)
		}
		b.edge[level] = append(b.edge[level], h)
		if len(b.edge[level]) < TileWidth {
			return
		}
		t := Tile{Level: level, Index: b.size>>(tileHeight*(level+1)) - 1, Width: TileWidth}
		full(t, b.edge[level])
		h = perfect(b.edge[level])
		b.edge[level] = b.edge[level][:0]
	}
}

// Root returns the root over all leaves.
func (b *Builder) Root() Hash { return fold(b.Peaks()) }

// Peaks returns the roots of the perfect trees that the tree decomposes into,
// largest first.
func (b *Builder) Peaks() []Hash {
	var all []Hash
	for level := len(b.edge) - 1; level >= 0; level-- {
		all = peaks(all, b.edge[level])
	}
	return all
}

// Partial calls fn for the partial tile of each level that has one.
func (b *Builder) Partial(fn func(t Tile, hashes []Hash)) {
	for level, hashes := range b.edge {
		if len(hashes) > 0 {
			fn(Tile{Level: level, Index: b.size >> (tileHeight * (level + 1)), Width: len(hashes)}, hashes)
		}
	}
}
