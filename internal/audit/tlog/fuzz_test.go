package tlog_test

import (
	"bytes"
	"testing"

	"github.com/countersign/countersign/internal/audit/tlog"
)

// The parsers of foreign bytes must not panic, and what they accept must have
// one spelling.

func FuzzParseTile(f *testing.F) {
	f.Add("tile/0/x001/x234/067.p/3")
	f.Add("tile/entries/000")
	f.Fuzz(func(t *testing.T, path string) {
		if tile, err := tlog.ParseTile(path); err == nil {
			tile.Covers(1 << 40)
			if tile.Path() != path {
				t.Errorf("%q is %q", path, tile.Path())
			}
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add(tlog.Checkpoint{Origin: "a", Size: 1, Extensions: []string{"x"}}.Text())
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := tlog.ParseCheckpoint(text); err == nil && c.Text() != text {
			t.Errorf("%q is %q", text, c.Text())
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	p := publish(f, 5)
	f.Add([]byte(p.checkpoint))
	keys := must(tlog.OpenKeys(p.vkey, nil))
	ws := must(tlog.ParseWitnesses([]string{p.witness}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if c, err := tlog.OpenCheckpoint(msg, keys, ws); err == nil && (c.Size != 5 || c.Root != p.Root()) {
			t.Errorf("forged: %+v", c)
		}
	})
}

func FuzzOpenRotation(f *testing.F) {
	a, av := logKey(f, 1)
	b, bv := logKey(f, 2)
	f.Add(must(tlog.SignRotation(tlog.Rotation{Origin: origin, Size: 10, Next: bv}, a, b)))
	f.Fuzz(func(t *testing.T, msg string) {
		if r, err := tlog.OpenRotation(msg, must(tlog.ParseKey(av))); err == nil && (r.Next != bv || r.Size != 10) {
			t.Errorf("forged: %+v", r)
		}
	})
}

func FuzzParseWitness(f *testing.F) {
	_, w := tlog.NewWitness("w", seedKey(2), at)
	f.Add(w)
	f.Fuzz(func(t *testing.T, vkey string) {
		if v, err := tlog.ParseWitness(vkey); err == nil {
			v.Verify([]byte("x\n1\n"), make([]byte, 72))
		}
	})
}

func FuzzVerifyProof(f *testing.F) {
	p := publish(f, 9)
	f.Add(p.proof(f, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := tlog.VerifyProof(b, p.trust()); err == nil && s.Record != string(p.entries[s.Index]) {
			t.Errorf("forged: %+v", s)
		}
	})
}

func FuzzVerifyExport(f *testing.F) {
	p := publish(f, 9)
	f.Add(p.export(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := tlog.VerifyExport(bytes.NewReader(b), p.trust(), nil); err == nil && s.Root != p.Root() {
			t.Errorf("forged: %+v", s)
		}
	})
}

func FuzzDecodeEntries(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x00"), 2)
	f.Fuzz(func(t *testing.T, b []byte, width int) {
		entries, err := tlog.DecodeEntries(b, width)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			again = must(tlog.AppendEntry(again, e))
		}
		if !bytes.Equal(again, b) {
			t.Error("another spelling")
		}
	})
}

func FuzzVerifyInclusion(f *testing.F) {
	f.Add(int64(3), int64(9), []byte{})
	f.Fuzz(func(t *testing.T, index, size int64, raw []byte) {
		var proof []tlog.Hash
		for len(raw) >= 32 && len(proof) < 80 {
			proof, raw = append(proof, tlog.Hash(raw[:32])), raw[32:]
		}
		if tlog.VerifyInclusion(index, size, tlog.Hash{1}, proof, tlog.Hash{2}) == nil {
			t.Error("proves nothing")
		}
		if tlog.VerifyConsistency(index, size, tlog.Hash{1}, tlog.Hash{2}, proof) == nil {
			t.Error("proves nothing")
		}
	})
}
