package tlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Limits of C2SP tlog-tiles.
const (
	// TileWidth is the number of hashes of a full tile, and of entries of a
	// full bundle.
	TileWidth = 256
	// MaxEntry is the largest entry that a bundle can hold, in bytes.
	MaxEntry = math.MaxUint16

	tileHeight = 8
	maxLevel   = 63
)

// Entries is the level of entry bundles.
const Entries = -1

// Tile names a tile, or with level Entries a bundle of entries.
type Tile struct {
	Level int   // 0 to 63, or Entries
	Index int64 // from the left, within the level
	Width int   // 1 to 256; below 256 it is partial
}

// Path returns the tile's path beneath the log's prefix, such as
// tile/0/x001/x234/067 or tile/entries/000.p/17.
func (t Tile) Path() string {
	n := fmt.Sprintf("%03d", t.Index%1000)
	for rest := t.Index / 1000; rest > 0; rest /= 1000 {
		n = fmt.Sprintf("x%03d/%s", rest%1000, n)
	}
	level := "entries"
	if t.Level >= 0 {
		level = strconv.Itoa(t.Level)
	}
	p := "tile/" + level + "/" + n
	if t.Width < TileWidth {
		p += ".p/" + strconv.Itoa(t.Width)
	}
	return p
}

// ParseTile reads a tile's path. Only the one spelling of each is accepted.
func ParseTile(path string) (Tile, error) {
	bad := fmt.Errorf("%q is not the path of a tile", cut(path))
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > 64 {
		return Tile{}, bad
	}
	level, rest, _ := strings.Cut(rest, "/")
	t := Tile{Level: Entries, Width: TileWidth}
	if level != "entries" {
		n, err := strconv.Atoi(level)
		if err != nil || n < 0 || n > maxLevel {
			return Tile{}, bad
		}
		t.Level = n
	}
	index, width, partial := strings.Cut(rest, ".p/")
	if partial {
		n, err := strconv.Atoi(width)
		if err != nil || n < 1 || n >= TileWidth {
			return Tile{}, bad
		}
		t.Width = n
	}
	for part := range strings.SplitSeq(index, "/") {
		n, err := strconv.Atoi(strings.TrimPrefix(part, "x"))
		if err != nil || n < 0 || n > 999 || t.Index > (math.MaxInt64-999)/1000 {
			return Tile{}, bad
		}
		t.Index = t.Index*1000 + int64(n)
	}
	if t.Path() != path {
		return Tile{}, bad
	}
	return t, nil
}

// tileAt returns the tile that holds the hash at index of a level of tiles, as
// wide as a tree of size leaves has it.
func tileAt(level int, index, size int64) Tile {
	n := index / TileWidth
	return Tile{Level: level, Index: n, Width: int(min(TileWidth, size>>(tileHeight*level)-n*TileWidth))}
}

// Covers reports whether a tree of size leaves has this tile, in this width or
// a larger one.
func (t Tile) Covers(size int64) bool {
	level := max(t.Level, 0)
	if level*tileHeight > 62 || t.Index > math.MaxInt64/TileWidth-1 {
		return false
	}
	return t.Width >= 1 && t.Index*TileWidth+int64(t.Width) <= size>>(tileHeight*level)
}

// EncodeTile returns the bytes of a tile.
func EncodeTile(hashes []Hash) []byte {
	b := make([]byte, 0, len(hashes)*len(Hash{}))
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

// DecodeTile reads the bytes of a tile of width hashes. More bytes than that
// are an error.
func DecodeTile(b []byte, width int) ([]Hash, error) {
	if width < 1 || width > TileWidth || len(b) != width*len(Hash{}) {
		return nil, fmt.Errorf("a tile of %d hashes has %d bytes, not %d", width, width*len(Hash{}), len(b))
	}
	out := make([]Hash, width)
	for i := range out {
		copy(out[i][:], b[i*len(Hash{}):])
	}
	return out, nil
}

// AppendEntry appends an entry to a bundle.
func AppendEntry(bundle, entry []byte) ([]byte, error) {
	if len(entry) > MaxEntry {
		return nil, fmt.Errorf("an entry of %d bytes does not fit into a bundle, which holds entries of at most %d", len(entry), MaxEntry)
	}
	bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(entry)))
	return append(bundle, entry...), nil
}

// DecodeEntries reads a bundle of width entries. They share the bundle's
// memory.
func DecodeEntries(bundle []byte, width int) ([][]byte, error) {
	if width < 1 || width > TileWidth {
		return nil, fmt.Errorf("a bundle of %d entries", width)
	}
	out := make([][]byte, 0, width)
	for len(out) < width {
		if len(bundle) < 2 {
			return nil, fmt.Errorf("the bundle ends in entry %d of %d", len(out), width)
		}
		n := int(binary.BigEndian.Uint16(bundle))
		if bundle = bundle[2:]; len(bundle) < n {
			return nil, fmt.Errorf("the bundle ends in entry %d of %d", len(out), width)
		}
		out = append(out, bundle[:n:n])
		bundle = bundle[n:]
	}
	if len(bundle) > 0 {
		return nil, fmt.Errorf("%d bytes follow the last of %d entries", len(bundle), width)
	}
	return out, nil
}

// Fetch returns the bytes of a file of the log by its path beneath the log's
// prefix. ErrAbsent says that it is not there.
type Fetch func(path string) ([]byte, error)

// ErrAbsent is what a Fetch returns when there is no such file.
var ErrAbsent = errors.New("there is no such file")

// TileNodes returns the nodes of the tree of size leaves, read from its tiles
// through get and kept. What it returns is as true as the tiles are: check a
// root against it.
func TileNodes(size int64, get func(Tile) ([]byte, error)) Nodes {
	kept := map[Tile][]Hash{}
	return func(level int, index int64) (Hash, error) {
		if level < 0 || level > 62 || index < 0 || index >= size>>level {
			return Hash{}, fmt.Errorf("a tree of %d leaves has no node %d at level %d", size, index, level)
		}
		r := level % tileHeight
		first := index << r
		t := tileAt(level/tileHeight, first, size)
		hashes, ok := kept[t]
		if !ok {
			b, err := get(t)
			if err != nil {
				return Hash{}, failed(t.Path(), "cannot be read", err)
			}
			if hashes, err = DecodeTile(b, t.Width); err != nil {
				return Hash{}, failed(t.Path(), "is damaged", err)
			}
			kept[t] = hashes
		}
		off := int(first % TileWidth)
		return perfect(hashes[off : off+1<<r]), nil
	}
}

// getFrom reads tiles by path. A partial tile that is gone is cut from the full one, as
// the specification allows.
func getFrom(fetch Fetch) func(Tile) ([]byte, error) {
	return func(t Tile) ([]byte, error) {
		b, err := fetch(t.Path())
		if errors.Is(err, ErrAbsent) && t.Width < TileWidth && t.Level >= 0 {
			full := t
			full.Width = TileWidth
			if b, ferr := fetch(full.Path()); ferr == nil && len(b) == TileWidth*len(Hash{}) {
				return b[:t.Width*len(Hash{})], nil
			}
		}
		return b, err
	}
}
