package tlog_test

import (
	"encoding/json/v2"
	"os"
	"testing"

	"github.com/countersign/countersign/internal/audit/tlog"
)

// foreign reads a file of somebody else's vectors.
func foreign(t *testing.T, name string, to any) {
	t.Helper()
	b, err := os.ReadFile("testdata/foreign/" + name)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// hashes reads base64 hashes of any length; ok is false if one is no hash.
func hashes(texts ...string) (out []tlog.Hash, ok bool) {
	for _, s := range texts {
		h, err := tlog.ParseHash(s)
		if err != nil {
			return nil, false
		}
		out = append(out, h)
	}
	return out, true
}

// Our verifier decides as transparency-dev's vectors say.
func TestTransparencyDevVectors(t *testing.T) {
	var all struct {
		Inclusion []struct {
			File     string   `json:"file"`
			Index    uint64   `json:"leafIdx"`
			Size     uint64   `json:"treeSize"`
			Root     string   `json:"root"`
			Leaf     string   `json:"leafHash"`
			Proof    []string `json:"proof"`
			WantFail bool     `json:"wantErr"`
		} `json:"inclusion"`
		Consistency []struct {
			File     string   `json:"file"`
			Older    uint64   `json:"size1"`
			Newer    uint64   `json:"size2"`
			OldRoot  string   `json:"root1"`
			NewRoot  string   `json:"root2"`
			Proof    []string `json:"proof"`
			WantFail bool     `json:"wantErr"`
		} `json:"consistency"`
	}
	foreign(t, "merkle.json", &all)
	good, bad := 0, 0
	verdict := func(file string, failed, want bool) {
		if failed != want {
			t.Errorf("%s: refused %v, want %v", file, failed, want)
		}
		if want {
			bad++
		} else {
			good++
		}
	}
	for _, v := range all.Inclusion {
		fixed, ok := hashes(v.Leaf, v.Root)
		path, pathOK := hashes(v.Proof...)
		failed := !ok || !pathOK || tlog.VerifyInclusion(int64(v.Index), int64(v.Size), fixed[0], path, fixed[1]) != nil
		verdict("inclusion/"+v.File, failed, v.WantFail)
	}
	for _, v := range all.Consistency {
		fixed, ok := hashes(v.OldRoot, v.NewRoot)
		path, pathOK := hashes(v.Proof...)
		if !ok && !v.WantFail {
			continue // its roots are no SHA-256 hashes, which cannot even be said here
		}
		failed := !ok || !pathOK || tlog.VerifyConsistency(int64(v.Older), int64(v.Newer), fixed[0], fixed[1], path) != nil
		verdict("consistency/"+v.File, failed, v.WantFail)
	}
	if good < 11 || bad < 180 {
		t.Errorf("%d good and %d bad vectors: some are missing", good, bad)
	}
}

// A proof of a log that is not ours, of millions of entries.
func TestCertificateTransparencyVectors(t *testing.T) {
	var v struct {
		Size        int64    `json:"size"`
		Root        string   `json:"root"`
		Index       int64    `json:"index"`
		Leaf        []byte   `json:"leaf"`
		Path        []string `json:"path"`
		OlderSize   int64    `json:"older_size"`
		OlderRoot   string   `json:"older_root"`
		Consistency []string `json:"consistency"`
	}
	foreign(t, "argon2020.json", &v)
	roots, ok := hashes(v.Root, v.OlderRoot)
	path, pathOK := hashes(v.Path...)
	proof, proofOK := hashes(v.Consistency...)
	if !ok || !pathOK || !proofOK {
		t.Fatal("the vectors cannot be read")
	}
	if err := tlog.VerifyInclusion(v.Index, v.Size, tlog.LeafHash(v.Leaf), path, roots[0]); err != nil {
		t.Error(err)
	}
	if err := tlog.VerifyConsistency(v.OlderSize, v.Size, roots[1], roots[0], proof); err != nil {
		t.Error(err)
	}
	v.Leaf[0] ^= 1
	if err := tlog.VerifyInclusion(v.Index, v.Size, tlog.LeafHash(v.Leaf), path, roots[0]); err == nil {
		t.Error("another leaf is proven, too")
	}
}
