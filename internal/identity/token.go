package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"math/big"
	"strings"
)

// The prefixes of opaque credentials. Secret scanners know them.
const (
	KeyPrefix   = "csk_" // agent keys
	TokenPrefix = "csu_" // user tokens
)

const (
	base62      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	randomChars = 43 // 32 bytes in base 62
	checkChars  = 6  // a CRC-32 in base 62
	opaqueChars = len(KeyPrefix) + randomChars + checkChars
	shownChars  = 10 // of a credential, in listings
)

// digest is the SHA-256 of a credential. 256 random bits need no slow hash.
type digest [sha256.Size]byte

func digestOf(credential string) digest { return sha256.Sum256([]byte(credential)) }

func (d digest) String() string { return hex.EncodeToString(d[:]) }

func parseDigest(s string) (d digest, ok bool) {
	n, err := hex.Decode(d[:], []byte(s))
	return d, err == nil && n == len(d) && len(s) == 2*len(d)
}

// mint returns a fresh opaque credential: the prefix, 32 random bytes and the
// CRC-32 (IEEE) of everything before it, both in base 62 of fixed width, the
// form of GitHub's tokens: scanners recognise it without asking us, and a
// mistyped or made-up one is refused before any lookup.
func mint(prefix string) string {
	var b [32]byte
	rand.Read(b[:]) // crypto/rand.Read never fails
	body := prefix + inBase62(new(big.Int).SetBytes(b[:]), randomChars)
	return body + checksum(body)
}

func inBase62(n *big.Int, width int) string {
	out := make([]byte, width)
	base, digit := big.NewInt(62), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		out[i] = base62[digit.Int64()]
	}
	return string(out)
}

func checksum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	var out [checkChars]byte
	for i := checkChars - 1; i >= 0; i-- {
		out[i] = base62[sum%62]
		sum /= 62
	}
	return string(out[:])
}

// WellFormed reports whether s is an opaque credential with the given prefix
// and a right checksum. It says nothing about whether it was ever issued.
func WellFormed(prefix, s string) bool {
	if len(s) != opaqueChars || !strings.HasPrefix(s, prefix) {
		return false
	}
	for i := len(prefix); i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return checksum(s[:len(s)-checkChars]) == s[len(s)-checkChars:]
}
