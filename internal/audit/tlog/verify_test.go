package tlog_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	fproof "github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/internal/audit/tlog"
)

const origin = "example.com/log"

func seedKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func logKey(t testing.TB, n byte) (note.Signer, string) {
	t.Helper()
	s, vkey, err := tlog.NewSigner(origin, seedKey(n))
	if err != nil {
		t.Fatal(err)
	}
	return s, vkey
}

func signed(t testing.TB, c tlog.Checkpoint, by note.Signer) string {
	t.Helper()
	msg, err := tlog.SignCheckpoint(c, by)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func cosign(t testing.TB, msg string, by note.Signer) string {
	t.Helper()
	text, _, _ := strings.Cut(msg, "\n\n")
	n, err := note.Sign(&note.Note{Text: text + "\n"}, by)
	if err != nil {
		t.Fatal(err)
	}
	return msg + strings.TrimPrefix(string(n), text+"\n\n")
}

func at() time.Time { return time.Unix(1_700_000_000, 0) }

// published is a tree with everything that a log hands out.
type published struct {
	*grown
	vkey, witness string
	checkpoint    string
}

func publish(t testing.TB, n int) *published {
	t.Helper()
	return publishGrown(t, grow(t, n))
}

func publishGrown(t testing.TB, g *grown) *published {
	t.Helper()
	p := &published{grown: g}
	var s, w note.Signer
	s, p.vkey = logKey(t, 1)
	w, p.witness = tlog.NewWitness("witness.example/w", seedKey(2), at)
	p.checkpoint = cosign(t, signed(t, tlog.Checkpoint{Origin: origin, Size: p.Size(), Root: p.Root()}, s), w)
	p.files["checkpoint"] = []byte(p.checkpoint)
	return p
}

func (p *published) trust() tlog.Trust {
	return tlog.Trust{Key: p.vkey, Witnesses: []string{p.witness}, Quorum: 1}
}

func (p *published) proof(t testing.TB, index int64) []byte {
	t.Helper()
	hashes, err := tlog.ProveInclusion(index, p.Size(), p.nodes())
	if err != nil {
		t.Fatal(err)
	}
	f := tlog.ProofFile{Record: string(p.entries[index]), Key: p.vkey, Witnesses: []string{p.witness},
		Proof: tlog.Proof{Index: index, Hashes: hashes, Checkpoint: p.checkpoint}.Text()}
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (p *published) export(t testing.TB) []byte {
	return p.exportWith(t, false, func(int, *tlog.ExportLine) {})
}

// exportWith is export with payloads, or whatever else change makes of a line.
func (p *published) exportWith(t testing.TB, payloads bool, change func(i int, l *tlog.ExportLine)) []byte {
	t.Helper()
	var b bytes.Buffer
	line := func(v any) {
		if err := json.MarshalWrite(&b, v, json.Deterministic(true)); err != nil {
			t.Fatal(err)
		}
		b.WriteByte('\n')
	}
	line(tlog.ExportHeader{Format: tlog.ExportFormat, Checkpoint: p.checkpoint, Key: p.vkey, Payloads: payloads})
	chains := map[int64]tlog.Hash{}
	for i, e := range p.entries {
		lane, sn := int64(i%3), int64(i/3+1)
		chains[lane] = tlog.ChainHash(chains[lane], lane, sn, p.leaves[i])
		c := chains[lane]
		l := tlog.ExportLine{Index: int64(i), Lane: lane, SN: sn, Chain: hex.EncodeToString(c[:]), Record: string(e)}
		change(i, &l)
		line(l)
	}
	return b.Bytes()
}

// TestAFlippedByteIsFoundAndLocated flips bytes of everything that is handed
// out and wants each found, and found in its place.
func TestAFlippedByteIsFoundAndLocated(t *testing.T) {
	p := publish(t, 66_100) // two levels of full tiles, three partial ones
	if shown, err := tlog.VerifyTiles(p.fetch, p.trust(), nil, true, nil); err != nil || shown.Entries != p.Size() {
		t.Fatal(shown, err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	paths := []string{"tile/0/000", "tile/0/100", "tile/0/255", "tile/0/257", "tile/0/258.p/52", "tile/1/000", "tile/1/001.p/2", "tile/2/000.p/1",
		"tile/entries/000", "tile/entries/257", "tile/entries/258.p/52", "checkpoint"}
	for _, path := range paths {
		b := p.files[path]
		if b == nil {
			t.Fatalf("no %s", path)
		}
		for range 12 {
			i, bit := rng.IntN(len(b)), byte(1)<<rng.IntN(8)
			if path == "checkpoint" && i > strings.LastIndex(p.checkpoint, "witness") {
				continue // a name that changes makes it an unknown witness: the quorum notices
			}
			b[i] ^= bit
			_, err := tlog.VerifyTiles(p.fetch, p.trust(), nil, true, nil)
			b[i] ^= bit
			if err == nil || !located(err, path, p) {
				t.Errorf("%s, byte %d: %v", path, i, err)
			}
		}
	}
}

func located(err error, path string, p *published) bool {
	var e *tlog.Error
	if !errors.As(err, &e) {
		return false
	}
	place := e.Where
	if path == "checkpoint" {
		return place == "checkpoint" || strings.Contains(e.Error(), "checkpoint")
	}
	return strings.Contains(place, path)
}

func TestAFlippedByteOfAnExportIsLocated(t *testing.T) {
	p := publish(t, 600)
	b := p.export(t)
	if shown, err := tlog.VerifyExport(bytes.NewReader(b), p.trust(), nil); err != nil || shown.Entries != 600 {
		t.Fatal(shown, err)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 400 {
		i, bit := rng.IntN(len(b)), byte(1)<<rng.IntN(8)
		line := bytes.Count(b[:i], []byte("\n")) + 1
		b[i] ^= bit
		_, err := tlog.VerifyExport(bytes.NewReader(b), p.trust(), nil)
		where := fmt.Sprintf("line %d", line)
		if err == nil && line > 1 || line > 1 && !strings.Contains(err.Error(), where+",") && !strings.Contains(err.Error(), where+":") {
			t.Errorf("byte %d, line %d: %v", i, line, err)
		}
		b[i] ^= bit
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	for name, x := range map[string][][]byte{
		"cut":     lines[:400],
		"removed": append(append([][]byte{}, lines[:50]...), lines[51:]...),
		"doubled": append(append([][]byte{}, lines[:50]...), lines[49:]...),
		"longer":  append(append([][]byte{}, lines[:601]...), lines[600]),
		"empty":   nil,
	} {
		if _, err := tlog.VerifyExport(bytes.NewReader(bytes.Join(x, nil)), p.trust(), nil); err == nil {
			t.Errorf("%s: verifies", name)
		}
	}
}

func TestAnExportReplacedWithItsChainsIsFound(t *testing.T) {
	p := publish(t, 100)
	forged := &published{grown: &grown{}, vkey: p.vkey, witness: p.witness, checkpoint: p.checkpoint}
	for i, e := range p.entries {
		if i == 50 {
			e = []byte(`{"n":-1}`)
		}
		forged.entries, forged.leaves = append(forged.entries, e), append(forged.leaves, tlog.LeafHash(e))
	}
	if _, err := tlog.VerifyExport(bytes.NewReader(forged.export(t)), p.trust(), nil); err == nil || !strings.Contains(err.Error(), "another root") {
		t.Error(err)
	}
}

func TestAFlippedByteOfAProofIsFound(t *testing.T) {
	p := publish(t, 1000)
	b := p.proof(t, 777)
	shown, err := tlog.VerifyProof(b, p.trust())
	if err != nil || !shown.Trusted || shown.Index != 777 || len(shown.Cosignatures) != 1 || shown.Cosignatures[0].Time != at().UTC() {
		t.Fatalf("%+v, %v", shown, err)
	}
	if shown, err := tlog.VerifyProof(b, tlog.Trust{}); err != nil || shown.Trusted {
		t.Errorf("%+v, %v", shown, err)
	}
	_, other := logKey(t, 9)
	if _, err := tlog.VerifyProof(b, tlog.Trust{Key: other}); err == nil {
		t.Error("the proof of another log verifies")
	}
	if _, err := tlog.VerifyProof(b, tlog.Trust{Key: p.vkey, Witnesses: []string{p.witness}, Quorum: 2}); err == nil {
		t.Error("one witness counts for two")
	}
	for i := range b {
		b[i] ^= 1
		// What the file itself says of keys is not believed, nor is white space.
		if s, err := tlog.VerifyProof(b, p.trust()); err == nil && (s.Record != shown.Record || s.Index != 777 || s.Root != shown.Root) {
			t.Errorf("byte %d: shows %+v", i, s)
		}
		b[i] ^= 1
	}
}

func TestOtherImplementationsReadOurs(t *testing.T) {
	p := publish(t, 300)
	f, err := tlog.DecodeProofFile(p.proof(t, 42))
	if err != nil {
		t.Fatal(err)
	}
	var theirs fproof.TLogProof
	if err := theirs.Unmarshal([]byte(f.Proof)); err != nil || theirs.Index != 42 || string(theirs.Marshal()) != f.Proof {
		t.Errorf("transparency-dev reads our proof as %+v, %v", theirs, err)
	}
	v, err := fnote.NewVerifierForCosignatureV1(p.witness)
	if err != nil {
		t.Fatal(err)
	}
	lv, err := note.NewVerifier(p.vkey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(p.checkpoint), note.VerifierList(v, lv))
	if err != nil || len(n.Sigs) != 2 {
		t.Errorf("transparency-dev opens our checkpoint: %+v, %v", n, err)
	}
}

func TestWeReadTheirCosignatures(t *testing.T) {
	s, vkey := logKey(t, 1)
	msg := signed(t, tlog.Checkpoint{Origin: origin, Size: 5, Root: tlog.EmptyRoot()}, s)
	keys, err := tlog.OpenKeys(vkey, nil)
	if err != nil {
		t.Fatal(err)
	}
	skey, wkey, err := fnote.GenerateMLDSAKey("witness.example/pq")
	if err != nil {
		t.Fatal(err)
	}
	pq, err := fnote.NewMLDSASigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	esk, evk, err := note.GenerateKey(nil, "witness.example/ed")
	if err != nil {
		t.Fatal(err)
	}
	ed, err := fnote.NewSignerForCosignatureV1(esk)
	if err != nil {
		t.Fatal(err)
	}
	msg = cosign(t, cosign(t, msg, pq), ed)
	ws, err := tlog.ParseWitnesses([]string{wkey, evk})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tlog.OpenCheckpoint([]byte(msg), keys, ws)
	if err != nil || len(c.Cosignatures) != 2 || time.Since(c.Cosignatures[0].Time).Abs() > time.Minute {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := tlog.OpenCheckpoint([]byte(msg), keys, nil); err != nil || len(c.Ignored) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestKeysFollowFromEachOther(t *testing.T) {
	a, av := logKey(t, 1)
	b, bv := logKey(t, 2)
	c, cv := logKey(t, 3)
	rot := func(old, next note.Signer, r tlog.Rotation) string {
		msg, err := tlog.SignRotation(r, old, next)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	ab := rot(a, b, tlog.Rotation{Origin: origin, Size: 10, Next: bv})
	bc := rot(b, c, tlog.Rotation{Origin: origin, Size: 20, Next: cv})
	check := func(trusted string, rots []string, size int64, by note.Signer, want bool) {
		t.Helper()
		keys, err := tlog.OpenKeys(trusted, rots)
		if err == nil {
			_, err = tlog.OpenCheckpoint([]byte(signed(t, tlog.Checkpoint{Origin: origin, Size: size}, by)), keys, nil)
		}
		if (err == nil) != want {
			t.Errorf("%v", err)
		}
	}
	check(av, []string{ab, bc}, 30, c, true)
	check(av, []string{ab, bc}, 10, a, true)
	check(av, []string{ab, bc}, 11, a, false) // replaced at 10
	check(av, []string{ab, bc}, 15, b, true)
	check(bv, []string{ab, bc}, 30, c, true) // trust begins in the middle
	check(av, []string{bc}, 30, c, false)
	check(av, []string{ab, strings.Replace(bc, "\n20\n", "\n21\n", 1)}, 30, c, false)
	check(av, []string{rot(a, a, tlog.Rotation{Origin: origin, Size: 10, Next: bv})}, 30, b, false) // the new key did not sign
	if _, err := tlog.OpenCheckpoint([]byte(signed(t, tlog.Checkpoint{Origin: "other", Size: 1}, a)), must(tlog.OpenKeys(av, nil)), nil); err == nil {
		t.Error("a checkpoint of another origin verifies")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestAServerMayNotRewrite(t *testing.T) {
	p := publish(t, 700)
	s, _ := logKey(t, 1)
	older := must(tlog.Root(300, p.nodes()))
	was, is, err := tlog.VerifyServer(p.fetch, []byte(signed(t, tlog.Checkpoint{Origin: origin, Size: 300, Root: older}, s)), p.trust(), nil)
	if err != nil || was.Size != 300 || is.Size != 700 {
		t.Error(was, is, err)
	}
	older[0] ^= 1
	if _, _, err := tlog.VerifyServer(p.fetch, []byte(signed(t, tlog.Checkpoint{Origin: origin, Size: 300, Root: older}, s)), p.trust(), nil); err == nil || !strings.Contains(err.Error(), "rewritten") {
		t.Error(err)
	}
	if _, _, err := tlog.VerifyServer(p.fetch, []byte(signed(t, tlog.Checkpoint{Origin: origin, Size: 900, Root: older}, s)), p.trust(), nil); err == nil || !strings.Contains(err.Error(), "shrunk") {
		t.Error(err)
	}
}

func BenchmarkVerifyExport(b *testing.B) {
	p := publish(b, 100_000)
	export := p.export(b)
	b.SetBytes(int64(len(export)))
	for b.Loop() {
		if _, err := tlog.VerifyExport(bytes.NewReader(export), p.trust(), nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*100_000/b.Elapsed().Seconds(), "records/s")
}
