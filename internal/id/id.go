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
	Passkey    Kind = "psk"
	Task       Kind = "tsk"
)

var encoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// New returns a fresh identifier of kind k, stamped with the present time.
func New(k Kind) string { return At(k, time.Now()) }

// At returns a fresh identifier of kind k stamped with t (UUIDv7, RFC 9562
// section 5.7, with the fraction of the millisecond in its 12 bits of rand_a as
// section 6.2, method 3 describes: identifiers of different microseconds sort
// in the order of time).
func At(k Kind, t time.Time) string {
	var b [16]byte
	rand.Read(b[8:]) // crypto/rand.Read never fails
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(t.UnixMilli()))
	copy(b[:6], ms[2:])
	fraction := int64(t.Nanosecond()) % 1e6 * 4096 / 1e6
	b[6], b[7] = byte(fraction>>8)|0x70, byte(fraction)
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

// Time returns when an identifier of kind k was made, to a four-thousandth of a
// millisecond, and false if s does not have the form of one.
func Time(k Kind, s string) (time.Time, bool) {
	rest, ok := strings.CutPrefix(s, string(k)+"_")
	if !ok {
		return time.Time{}, false
	}
	b, err := encoding.DecodeString(rest)
	if err != nil || len(b) != 16 {
		return time.Time{}, false
	}
	ms := int64(binary.BigEndian.Uint64(append([]byte{0, 0}, b[:6]...)))
	fraction := int64(b[6]&0x0f)<<8 | int64(b[7])
	return time.UnixMilli(ms).Add(time.Duration((fraction*1e6 + 4095) / 4096)), true
}
