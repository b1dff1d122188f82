package tlog_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
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
	p, q := publish(f, 9), publishGrown(f, growPayloads(f, 4))
	f.Add(p.export(f))
	for _, lines := range q.payloadExports(f) {
		f.Add(lines)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := tlog.VerifyExport(bytes.NewReader(b), p.trust(), nil)
		switch {
		case err != nil:
		case s.Root == p.Root() && s.Payloads+s.Erased == 0:
		case s.Root == q.Root() && s.Payloads+s.Erased <= 2*int64(len(q.entries)):
		default:
			t.Errorf("forged: %+v", s)
		}
	})
}

// growPayloads returns a tree of n records that commit to two payloads, and to a
// third of which nothing else was kept.
func growPayloads(t testing.TB, n int) *grown {
	t.Helper()
	g := grow(t, 0)
	for i := range n {
		digest := func(salt, body string) string {
			sum := sha256.Sum256([]byte(salt + body))
			return hex.EncodeToString(sum[:])
		}
		g.add(t, fmt.Appendf(nil, `{"n":%d,"payloads":[{"digest":"%s","name":"arguments","size":7},{"digest":"%s","level":"digest","name":"secret","size":1},{"digest":"%s","level":"full","name":"answer","size":3}]}`,
			i, digest("s", fmt.Sprint("body ", i)), digest("", "x"), digest("t", "\xff\x00\x01")))
	}
	g.flush(t)
	return g
}

// payloadExports returns exports of a log of growPayloads: one whole, one of which
// some was erased, and some that are not to be believed.
func (p *published) payloadExports(t testing.TB) [][]byte {
	t.Helper()
	var out [][]byte
	for _, change := range []func(i int, l *tlog.ExportLine){
		func(int, *tlog.ExportLine) {},
		func(i int, l *tlog.ExportLine) {
			l.Payloads[i%2] = tlog.ExportPayload{Name: l.Payloads[i%2].Name, Erased: true}
		},
		func(i int, l *tlog.ExportLine) { l.Payloads[0].Problem, l.Payloads[0].Body = "does not open", nil },
		func(i int, l *tlog.ExportLine) { l.Payloads[1].Salt = []byte("u") },
		func(i int, l *tlog.ExportLine) { l.Payloads = append(l.Payloads, l.Payloads[i%2]) },
	} {
		out = append(out, p.exportWith(t, true, func(i int, l *tlog.ExportLine) {
			l.Payloads = []tlog.ExportPayload{{Name: "arguments", Salt: []byte("s"), Body: fmt.Append(nil, "body ", i)}, {Name: "answer", Salt: []byte("t"), Body: []byte{0xff, 0, 1}}}
			change(i, l)
		}))
	}
	return out
}

// The seeds of FuzzVerifyExport are what they are meant to be: a fuzzer that
// begins at nothing but refusals goes nowhere.
func TestPayloadSeeds(t *testing.T) {
	p := publishGrown(t, growPayloads(t, 4))
	for i, want := range []struct {
		payloads, erased int64
		refused          string
	}{{8, 0, ""}, {4, 4, ""}, {0, 0, "does not open"}, {0, 0, "was changed"}, {0, 0, "is not in the record"}} {
		s, err := tlog.VerifyExport(bytes.NewReader(p.payloadExports(t)[i]), p.trust(), nil)
		if want.refused != "" && (err == nil || !strings.Contains(err.Error(), want.refused)) {
			t.Errorf("seed %d: %v", i, err)
		}
		if want.refused == "" && (err != nil || s.Payloads != want.payloads || s.Erased != want.erased) {
			t.Errorf("seed %d: %+v, %v", i, s, err)
		}
	}
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
