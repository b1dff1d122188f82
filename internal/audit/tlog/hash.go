package tlog

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Hash is a SHA-256 digest.
type Hash [sha256.Size]byte

// String returns the base64 form that the formats use.
func (h Hash) String() string { return base64.StdEncoding.EncodeToString(h[:]) }

// ParseHash reads the base64 form. Only the canonical spelling is accepted.
func ParseHash(s string) (Hash, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(Hash{}) || base64.StdEncoding.EncodeToString(b) != s {
		return Hash{}, fmt.Errorf("%q is not the base64 of a SHA-256 hash", cut(s))
	}
	return Hash(b), nil
}

// LeafHash returns the hash of an entry (RFC 6962 section 2.1).
func LeafHash(entry []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(entry)
	return Hash(h.Sum(nil))
}

// NodeHash returns the hash of an inner node (RFC 6962 section 2.1).
func NodeHash(left, right Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// EmptyRoot is the root of a tree without leaves: the hash of nothing.
func EmptyRoot() Hash { return sha256.Sum256(nil) }

// ChainHash extends a lane's chain by one record:
// SHA-256(previous chain, lane, sn, leaf), the numbers as 64 bits big-endian.
// The chain of an empty lane is all zero.
func ChainHash(prev Hash, lane, sn int64, leaf Hash) Hash {
	var b [sha256.Size + 8 + 8 + sha256.Size]byte
	copy(b[:], prev[:])
	binary.BigEndian.PutUint64(b[32:], uint64(lane))
	binary.BigEndian.PutUint64(b[40:], uint64(sn))
	copy(b[48:], leaf[:])
	return sha256.Sum256(b[:])
}

// perfect returns the root of a tree whose number of leaves, len(hashes), is a
// power of two.
func perfect(hashes []Hash) Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	var buf [TileWidth / 2]Hash
	work := buf[:len(hashes)/2]
	for i := range work {
		work[i] = NodeHash(hashes[2*i], hashes[2*i+1])
	}
	for len(work) > 1 {
		half := work[:len(work)/2]
		for i := range half {
			half[i] = NodeHash(work[2*i], work[2*i+1])
		}
		work = half
	}
	return work[0]
}

// peaks appends the roots of the perfect trees that hashes decompose into,
// largest first.
func peaks(to []Hash, hashes []Hash) []Hash {
	for len(hashes) > 0 {
		n := 1 << (bits.Len(uint(len(hashes))) - 1)
		to = append(to, perfect(hashes[:n]))
		hashes = hashes[n:]
	}
	return to
}

// fold returns the root over perfect trees, largest first.
func fold(peaks []Hash) Hash {
	if len(peaks) == 0 {
		return EmptyRoot()
	}
	root := peaks[len(peaks)-1]
	for i := len(peaks) - 2; i >= 0; i-- {
		root = NodeHash(peaks[i], root)
	}
	return root
}

// cut shortens foreign text for messages.
func cut(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
