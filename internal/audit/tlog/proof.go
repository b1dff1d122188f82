package tlog

import (
	"errors"
	"fmt"
	"math/bits"
)

// Nodes returns the hash of a complete subtree: of 2^level leaves, the index-th
// from the left.
type Nodes func(level int, index int64) (Hash, error)

// Root returns the root of the tree of the first size leaves.
func Root(size int64, nodes Nodes) (Hash, error) {
	if size < 0 {
		return Hash{}, fmt.Errorf("a tree of %d leaves", size)
	}
	if size == 0 {
		return EmptyRoot(), nil
	}
	return mth(0, size, nodes)
}

// mth returns the hash of the leaves [lo, hi) as RFC 6962 splits them.
func mth(lo, hi int64, nodes Nodes) (Hash, error) {
	n := hi - lo
	if n&(n-1) == 0 {
		level := bits.TrailingZeros64(uint64(n))
		return nodes(level, lo>>level)
	}
	k := split(n)
	left, err := mth(lo, lo+k, nodes)
	if err != nil {
		return Hash{}, err
	}
	right, err := mth(lo+k, hi, nodes)
	if err != nil {
		return Hash{}, err
	}
	return NodeHash(left, right), nil
}

// split returns the largest power of two smaller than n, n > 1.
func split(n int64) int64 { return 1 << (bits.Len64(uint64(n-1)) - 1) }

// ProveInclusion returns the audit path of the leaf at index in the tree of
// size leaves (RFC 6962 section 2.1.1), the leaf's sibling first.
func ProveInclusion(index, size int64, nodes Nodes) ([]Hash, error) {
	if index < 0 || index >= size {
		return nil, fmt.Errorf("there is no leaf %d in a tree of %d", index, size)
	}
	return path(index, 0, size, nodes)
}

func path(index, lo, hi int64, nodes Nodes) ([]Hash, error) {
	if hi-lo == 1 {
		return nil, nil
	}
	mid := lo + split(hi-lo)
	in, out := [2]int64{lo, mid}, [2]int64{mid, hi}
	if index >= mid {
		in, out = out, in
	}
	p, err := path(index, in[0], in[1], nodes)
	if err != nil {
		return nil, err
	}
	sibling, err := mth(out[0], out[1], nodes)
	return append(p, sibling), err
}

// ProveConsistency returns the proof that the tree of the first older leaves
// is a prefix of the tree of newer leaves (RFC 6962 section 2.1.2). It is empty
// if older is 0 or newer.
func ProveConsistency(older, newer int64, nodes Nodes) ([]Hash, error) {
	if older < 0 || older > newer {
		return nil, fmt.Errorf("a tree of %d leaves is no prefix of one of %d", older, newer)
	}
	if older == 0 || older == newer {
		return nil, nil
	}
	return subproof(older, 0, newer, true, nodes)
}

func subproof(m, lo, hi int64, whole bool, nodes Nodes) ([]Hash, error) {
	if m == hi {
		if whole {
			return nil, nil
		}
		h, err := mth(lo, hi, nodes)
		return []Hash{h}, err
	}
	mid := lo + split(hi-lo)
	out, proof, err := [2]int64{mid, hi}, []Hash(nil), error(nil)
	if m <= mid {
		proof, err = subproof(m, lo, mid, whole, nodes)
	} else {
		proof, err = subproof(m, mid, hi, false, nodes)
		out = [2]int64{lo, mid}
	}
	if err != nil {
		return nil, err
	}
	h, err := mth(out[0], out[1], nodes)
	return append(proof, h), err
}

var (
	errProofLength = errors.New("the proof has too few or too many hashes for this index and size")
	errProofRoot   = errors.New("the proof leads to another root")
	errProofOld    = errors.New("the proof leads to another root of the older tree")
)

// VerifyInclusion checks that leaf is at index in the tree of size leaves with
// this root (RFC 9162 section 2.1.3.2).
func VerifyInclusion(index, size int64, leaf Hash, proof []Hash, root Hash) error {
	if index < 0 || index >= size {
		return fmt.Errorf("there is no leaf %d in a tree of %d", index, size)
	}
	fn, sn, r := index, size-1, leaf
	for _, p := range proof {
		if sn == 0 {
			return errProofLength
		}
		if fn&1 == 1 || fn == sn {
			r = NodeHash(p, r)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = NodeHash(r, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 {
		return errProofLength
	}
	if r != root {
		return errProofRoot
	}
	return nil
}

// VerifyConsistency checks that the tree of older leaves with root oldRoot is
// a prefix of the tree of newer leaves with root newRoot (RFC 9162 section
// 2.1.4.2).
func VerifyConsistency(older, newer int64, oldRoot, newRoot Hash, proof []Hash) error {
	switch {
	case older < 0 || older > newer:
		return fmt.Errorf("a tree of %d leaves is no prefix of one of %d", older, newer)
	case older == newer || older == 0:
		if len(proof) != 0 {
			return errProofLength
		}
		if older == newer && oldRoot != newRoot {
			return fmt.Errorf("two trees of %d leaves have different roots", newer)
		}
		if older == 0 && oldRoot != EmptyRoot() {
			return errProofOld
		}
		return nil
	}
	if older&(older-1) == 0 {
		proof = append([]Hash{oldRoot}, proof...)
	}
	if len(proof) == 0 {
		return errProofLength
	}
	fn, sn := older-1, newer-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	fr, sr := proof[0], proof[0]
	for _, c := range proof[1:] {
		if sn == 0 {
			return errProofLength
		}
		if fn&1 == 1 || fn == sn {
			fr, sr = NodeHash(c, fr), NodeHash(c, sr)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			sr = NodeHash(sr, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	switch {
	case sn != 0:
		return errProofLength
	case fr != oldRoot:
		return errProofOld
	case sr != newRoot:
		return errProofRoot
	}
	return nil
}
