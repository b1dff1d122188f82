package tlog_test

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/internal/audit/tlog"
)

var update = flag.Bool("update", false, "write testdata/vectors again")

const vectors = "testdata/vectors"

// vector is one case: a file of a kind, verified with the trust that is given.
type vector struct {
	File      string   `json:"file"`
	Kind      string   `json:"kind"` // proof, export, tiles
	Why       string   `json:"why"`
	OK        bool     `json:"ok"`
	Error     string   `json:"error,omitempty"` // a part of what our verifier says; others need only refuse
	Key       string   `json:"key"`
	Witnesses []string `json:"witnesses,omitempty"`
	Quorum    int      `json:"quorum,omitempty"`
	Rotations []string `json:"rotations,omitempty"`
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	b, err := os.ReadFile(filepath.Join(vectors, "vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(b, &all, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if len(all) < 15 {
		t.Fatalf("only %d vectors", len(all))
	}
	for _, v := range all {
		t.Run(v.File, func(t *testing.T) {
			err := v.verify(t)
			if (err == nil) != v.OK || err != nil && !strings.Contains(err.Error(), v.Error) {
				t.Errorf("%s: %v", v.Why, err)
			}
		})
	}
}

func (v vector) verify(t *testing.T) error {
	t.Helper()
	trust := tlog.Trust{Key: v.Key, Witnesses: v.Witnesses, Quorum: v.Quorum}
	path := filepath.Join(vectors, v.File)
	if v.Kind == "tiles" {
		_, err := tlog.VerifyTiles(func(p string) ([]byte, error) {
			b, err := os.ReadFile(filepath.Join(path, filepath.FromSlash(p)))
			if errors.Is(err, fs.ErrNotExist) {
				return nil, tlog.ErrAbsent
			}
			return b, err
		}, trust, v.Rotations, true, nil)
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if v.Kind == "export" {
		_, err = tlog.VerifyExport(bytes.NewReader(b), trust, nil)
	} else {
		_, err = tlog.VerifyProof(b, trust)
	}
	return err
}

// writer makes the vectors from seeds, so that they come out the same.
type writer struct {
	t   *testing.T
	p   *published
	all []vector
}

func (w *writer) put(name string, b []byte) {
	w.t.Helper()
	path := filepath.Join(vectors, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) add(v vector, b []byte) {
	w.t.Helper()
	if v.Key == "" {
		v.Key, v.Witnesses, v.Quorum = w.p.vkey, []string{w.p.witness}, 1
	}
	if b != nil {
		w.put(v.File, b)
	}
	w.all = append(w.all, v)
}

func (w *writer) proof(file, why, says string, b []byte) {
	w.t.Helper()
	w.add(vector{File: file, Kind: "proof", Why: why, OK: says == "", Error: says}, b)
}

func writeVectors(t *testing.T) {
	w := &writer{t: t, p: publish(t, 300)}
	p := w.p
	for _, i := range []int64{0, 42, 255, 256, 299} {
		w.proof(fmt.Sprintf("proof-%d.json", i), "a sound proof", "", p.proof(t, i))
	}
	good := p.proof(t, 42)
	file := must(tlog.DecodeProofFile(good))
	edit := func(fn func(*tlog.ProofFile)) []byte { f := file; fn(&f); return must(f.Encode()) }
	w.proof("bad-record.json", "one byte of the record differs", "do not belong together", edit(func(f *tlog.ProofFile) { f.Record = strings.Replace(f.Record, "42", "43", 1) }))
	w.proof("bad-index.json", "another index", "do not belong together", edit(func(f *tlog.ProofFile) { f.Proof = strings.Replace(f.Proof, "index 42", "index 43", 1) }))
	w.proof("bad-hash.json", "the first hash of the path differs", "do not belong together", edit(func(f *tlog.ProofFile) {
		lines := strings.Split(f.Proof, "\n")
		lines[2] = tlog.Hash{1}.String()
		f.Proof = strings.Join(lines, "\n")
	}))
	w.proof("bad-size.json", "the checkpoint's size differs", "does not match the text", edit(func(f *tlog.ProofFile) { f.Proof = strings.Replace(f.Proof, "\n300\n", "\n301\n", 1) }))
	w.proof("bad-zero.json", "an index with a leading zero", "not a number of leaves", edit(func(f *tlog.ProofFile) { f.Proof = strings.Replace(f.Proof, "index 42", "index 042", 1) }))
	w.proof("bad-duplicate.json", "a JSON name twice", "cannot be read", bytes.Replace(good, []byte(`"key"`), []byte(`"format":"x","key"`), 1))
	_, other := logKey(t, 9)
	w.add(vector{File: "other-log.json", Kind: "proof", Why: "a sound proof, verified with another log's key", Error: "not signed by a key of this log", Key: other}, good)
	w.add(vector{File: "quorum.json", Kind: "proof", Why: "two witnesses are asked for, one has cosigned", Error: "cosigned by 1", Key: p.vkey, Witnesses: []string{p.witness}, Quorum: 2}, good)
	w.rotated()
	export := p.export(t)
	w.add(vector{File: "export.jsonl", Kind: "export", Why: "a sound export", OK: true}, export)
	lines := bytes.SplitAfter(export, []byte("\n"))
	w.add(vector{File: "bad-removed.jsonl", Kind: "export", Why: "the record on line 100 is removed", Error: "line 100, record 99"}, bytes.Join(append(append([][]byte{}, lines[:99]...), lines[100:]...), nil))
	w.add(vector{File: "bad-changed.jsonl", Kind: "export", Why: "the record on line 100 is changed", Error: "line 100, record 98 (lane 2, sn 33): was changed"}, bytes.Replace(export, []byte(`\"n\":98`), []byte(`\"n\":99`), 1))
	w.add(vector{File: "bad-cut.jsonl", Kind: "export", Why: "the end is missing", Error: "ends after entry 248"}, bytes.Join(lines[:250], nil))
	for path, b := range p.files {
		w.put("tiles/"+path, b)
	}
	w.add(vector{File: "tiles", Kind: "tiles", Why: "a sound log of 300 entries as C2SP tlog-tiles", OK: true}, nil)
	b := must(json.Marshal(w.all, jsontext.WithIndent("  ")))
	w.put("vectors.json", append(b, '\n'))
}

// rotated adds a proof under a key that replaced the first.
func (w *writer) rotated() {
	a, av := logKey(w.t, 1)
	b, bv := logKey(w.t, 3)
	g := grow(w.t, 20)
	rot := must(tlog.SignRotation(tlog.Rotation{Origin: origin, Size: 10, Next: bv}, a, b))
	file := func(by note.Signer) []byte {
		f := tlog.ProofFile{Record: string(g.entries[3]), Key: av, Rotations: []string{rot},
			Proof: tlog.Proof{Index: 3, Hashes: must(tlog.ProveInclusion(3, 20, g.nodes())), Checkpoint: signed(w.t, tlog.Checkpoint{Origin: origin, Size: 20, Root: g.Root()}, by)}.Text()}
		return must(f.Encode())
	}
	w.add(vector{File: "rotated.json", Kind: "proof", Why: "signed by the second key, trusting the first", OK: true, Key: av}, file(b))
	w.add(vector{File: "bad-retired.json", Kind: "proof", Why: "signed by the first key after it was replaced", Error: "replaced at size 10", Key: av}, file(a))
}
