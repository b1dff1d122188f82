package id

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

// Kind is the prefix that says what an identifier names.
type Kind string

// The kinds of identifiers.
const (
	Event      Kind = "evt"
	Call       Kind = "call"
	Run        Kind = "run"
	User       Kind = "usr"
	Team       Kind = "team"
	Agent      Kind = "agt"
	Key        Kind = "key"
	Token      Kind = "tok"
	Connection Kind = "conn"
	Tool       Kind = "tool"
	Policy     Kind = "pol"
	Grant      Kind = "grt"
	Secret     Kind = "sec"
	Finding    Kind = "fnd"
	Approval   Kind = "apr"
)

var encoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// New returns a fresh identifier of kind k, stamped with the present time.
func New(k Kind) string { return At(k, time.Now()) }

// At returns a fresh identifier of kind k stamped with t (UUIDv7, millisecond
// resolution, RFC 9562 section 5.7).
func At(k Kind, t time.Time) string {
	var b [16]byte
	rand.Read(b[6:]) // crypto/rand.Read never fails
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(t.UnixMilli()))
	copy(b[:6], ms[2:])
	b[6] = b[6]&0x0f | 0x70
	b[8] = b[8]&0x3f | 0x80
	return string(k) + "_" + encoding.EncodeToString(b[:])
}

// Is reports whether s has the form of an identifier of kind k. It says
// nothing about whether the thing exists.
func Is(k Kind, s string) bool {
	rest, ok := strings.CutPrefix(s, string(k)+"_")
	if !ok || len(rest) != 26 {
		return false
	}
	_, err := encoding.DecodeString(rest)
	return err == nil
}
