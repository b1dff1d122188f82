package tlog_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	xtlog "golang.org/x/mod/sumdb/tlog"

	"github.com/countersign/countersign/internal/audit/tlog"
)

// grown is a tree kept as files, like a static server has them.
type grown struct {
	*tlog.Builder
	files   map[string][]byte
	leaves  []tlog.Hash
	entries [][]byte
	bundle  []byte
}

func grow(t testing.TB, n int) *grown {
	b, err := tlog.NewBuilder(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	g := &grown{Builder: b, files: map[string][]byte{}}
	for i := range n {
		g.add(t, fmt.Appendf(nil, `{"n":%d}`, i))
	}
	g.flush(t)
	return g
}

func (g *grown) add(t testing.TB, entry []byte) {
	leaf := tlog.LeafHash(entry)
	g.leaves, g.entries = append(g.leaves, leaf), append(g.entries, entry)
	g.Append(leaf, func(tile tlog.Tile, hashes []tlog.Hash) { g.files[tile.Path()] = tlog.EncodeTile(hashes) })
	var err error
	if g.bundle, err = tlog.AppendEntry(g.bundle, entry); err != nil {
		t.Fatal(err)
	}
	if n := g.Size(); n%tlog.TileWidth == 0 {
		g.files[tlog.Tile{Level: tlog.Entries, Index: n/tlog.TileWidth - 1, Width: tlog.TileWidth}.Path()] = g.bundle
		g.bundle = nil
	}
}

func (g *grown) flush(testing.TB) {
	g.Partial(func(tile tlog.Tile, hashes []tlog.Hash) { g.files[tile.Path()] = tlog.EncodeTile(hashes) })
	if w := int(g.Size() % tlog.TileWidth); w > 0 {
		g.files[tlog.Tile{Level: tlog.Entries, Index: g.Size() / tlog.TileWidth, Width: w}.Path()] = bytes.Clone(g.bundle)
	}
}

func (g *grown) fetch(path string) ([]byte, error) {
	if b, ok := g.files[path]; ok {
		return b, nil
	}
	return nil, tlog.ErrAbsent
}

func (g *grown) nodes() tlog.Nodes {
	return tlog.TileNodes(g.Size(), func(t tlog.Tile) ([]byte, error) { return g.fetch(t.Path()) })
}

// reference holds the same leaves in golang.org/x/mod/sumdb/tlog.
type reference []xtlog.Hash

func (r reference) ReadHashes(indexes []int64) ([]xtlog.Hash, error) {
	out := make([]xtlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = r[x]
	}
	return out, nil
}

func (g *grown) reference(t testing.TB) reference {
	var r reference
	for i, leaf := range g.leaves {
		more, err := xtlog.StoredHashesForRecordHash(int64(i), xtlog.Hash(leaf), r)
		if err != nil {
			t.Fatal(err)
		}
		r = append(r, more...)
	}
	return r
}

func TestRFC6962Vectors(t *testing.T) {
	// The leaves and roots that Certificate Transparency implementations test with.
	leaves := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	b, err := tlog.NewBuilder(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range roots {
		if r := b.Root(); hex.EncodeToString(r[:]) != want {
			t.Errorf("size %d: root %x, want %s", i, r, want)
		}
		if i < len(leaves) {
			raw, _ := hex.DecodeString(leaves[i])
			b.Append(tlog.LeafHash(raw), func(tlog.Tile, []tlog.Hash) {})
		}
	}
}

func TestAgreesWithOtherImplementations(t *testing.T) {
	g := grow(t, 70_001)
	ref := g.reference(t)
	nodes := g.nodes()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int64{1, 2, 3, 255, 256, 257, 511, 65_535, 65_536, 65_537, 70_000, 70_001} {
		root, err := tlog.Root(size, nodes)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := xtlog.TreeHash(size, ref)
		if err != nil || root != tlog.Hash(theirs) {
			t.Fatalf("size %d: root %v, theirs %v (%v)", size, root, theirs, err)
		}
		for range 20 {
			checkInclusion(t, g, ref, nodes, rng.Int64N(size), size, root)
			checkConsistency(t, ref, nodes, 1+rng.Int64N(size), size, root)
		}
	}
	if r, _ := tlog.Root(g.Size(), nodes); r != g.Root() {
		t.Error("the builder has another root than its tiles")
	}
}

func checkInclusion(t *testing.T, g *grown, ref reference, nodes tlog.Nodes, index, size int64, root tlog.Hash) {
	t.Helper()
	p, err := tlog.ProveInclusion(index, size, nodes)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.VerifyInclusion(index, size, g.leaves[index], p, root); err != nil {
		t.Errorf("%d of %d: %v", index, size, err)
	}
	if err := xtlog.CheckRecord(theirs(p), size, xtlog.Hash(root), index, xtlog.Hash(g.leaves[index])); err != nil {
		t.Errorf("x/mod refuses our proof of %d in %d: %v", index, size, err)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(index), uint64(size), g.leaves[index][:], raw(p), root[:]); err != nil {
		t.Errorf("transparency-dev refuses our proof of %d in %d: %v", index, size, err)
	}
	if q, err := xtlog.ProveRecord(size, index, ref); err != nil || fmt.Sprint(theirs(p)) != fmt.Sprint(q) {
		t.Errorf("another proof than x/mod's of %d in %d", index, size)
	}
	for i := range p {
		p[i][7] ^= 1
		if tlog.VerifyInclusion(index, size, g.leaves[index], p, root) == nil {
			t.Errorf("a proof with hash %d changed verifies", i)
		}
		p[i][7] ^= 1
	}
	if tlog.VerifyInclusion(index, size, g.leaves[index], append(p, root), root) == nil {
		t.Error("a proof with a hash too many verifies")
	}
}

func checkConsistency(t *testing.T, ref reference, nodes tlog.Nodes, older, size int64, root tlog.Hash) {
	t.Helper()
	p, err := tlog.ProveConsistency(older, size, nodes)
	if err != nil {
		t.Fatal(err)
	}
	oldRoot, err := tlog.Root(older, nodes)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.VerifyConsistency(older, size, oldRoot, root, p); err != nil {
		t.Errorf("%d to %d: %v", older, size, err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(older), uint64(size), raw(p), oldRoot[:], root[:]); err != nil {
		t.Errorf("transparency-dev refuses our proof from %d to %d: %v", older, size, err)
	}
	if err := xtlog.CheckTree(theirs(p), size, xtlog.Hash(root), older, xtlog.Hash(oldRoot)); err != nil {
		t.Errorf("x/mod refuses our proof from %d to %d: %v", older, size, err)
	}
	if q, err := xtlog.ProveTree(size, older, ref); err != nil || fmt.Sprint(theirs(p)) != fmt.Sprint(q) {
		t.Errorf("another proof than x/mod's from %d to %d", older, size)
	}
	oldRoot[0] ^= 1
	if tlog.VerifyConsistency(older, size, oldRoot, root, p) == nil {
		t.Errorf("from %d to %d: another old root verifies", older, size)
	}
}

func theirs(p []tlog.Hash) []xtlog.Hash {
	out := []xtlog.Hash{}
	for _, h := range p {
		out = append(out, xtlog.Hash(h))
	}
	return out
}

func raw(p []tlog.Hash) [][]byte {
	var out [][]byte
	for _, h := range p {
		out = append(out, bytes.Clone(h[:]))
	}
	return out
}

func TestTilesAreThoseOfTheSpecification(t *testing.T) {
	// The example of C2SP tlog-tiles: 70,000 entries.
	g := grow(t, 70_000)
	for _, path := range []string{"tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} {
		if g.files[path] == nil {
			t.Errorf("no %s", path)
		}
	}
	if g.files["tile/0/273"] != nil || g.files["tile/3/000.p/1"] != nil {
		t.Error("tiles that should not be")
	}
	for tile, path := range map[tlog.Tile]string{
		{Level: 0, Index: 1234067, Width: 256}: "tile/0/x001/x234/067",
		{Level: 63, Index: 5, Width: 1}:        "tile/63/005.p/1",
		{Level: -1, Index: 1000, Width: 255}:   "tile/entries/x001/000.p/255",
	} {
		got, err := tlog.ParseTile(path)
		if tile.Path() != path || err != nil || got != tile {
			t.Errorf("%v: %s, %v, %v", tile, tile.Path(), got, err)
		}
	}
	for _, bad := range []string{"", "tile/0/1", "tile/0/x000/001", "tile/00/001", "tile/64/001", "tile/0/001.p/0", "tile/0/001.p/256", "tile/0/001.p/01",
		"tile/0/x001", "tile/0/001/002", "tile/-1/001", "tile/entries/+01", "/tile/0/001", "tile/0/../001", "tile/0/x999/x999/x999/x999/x999/x999/x999/999"} {
		if got, err := tlog.ParseTile(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

func TestABuilderContinuesFromItsTiles(t *testing.T) {
	whole := grow(t, 66_000)
	for _, at := range []int64{0, 1, 255, 256, 300, 65_535, 65_536, 65_900} {
		g := grow(t, int(at))
		b, err := tlog.NewBuilder(at, func(t tlog.Tile) ([]byte, error) { return g.fetch(t.Path()) })
		if err != nil {
			t.Fatal(at, err)
		}
		for _, leaf := range whole.leaves[at:] {
			b.Append(leaf, func(tile tlog.Tile, hashes []tlog.Hash) {
				if !bytes.Equal(whole.files[tile.Path()], tlog.EncodeTile(hashes)) {
					t.Errorf("from %d: another %s", at, tile.Path())
				}
			})
		}
		if b.Root() != whole.Root() || b.Clone().Root() != whole.Root() {
			t.Errorf("from %d: another root", at)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	t, _ := tlog.NewBuilder(0, nil)
	entry := bytes.Repeat([]byte("x"), 512)
	for b.Loop() {
		t.Append(tlog.LeafHash(entry), func(tlog.Tile, []tlog.Hash) {})
	}
}
