package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// Argon2id with the second recommended option of RFC 9106 section 4: three
// passes over 64 MiB with four lanes, 128-bit salt, 256-bit tag.
const (
	argonPasses  = 3
	argonKiB     = 64 << 10
	argonLanes   = 4
	argonSalt    = 16
	argonTag     = 32
	hashesAtOnce = 2 // bounds the memory of a login flood to 128 MiB
	hashPatience = 5 * time.Second
)

var b64 = base64.RawStdEncoding.Strict()

// hasher computes password hashes, a few at a time.
type hasher struct{ slots chan struct{} }

func newHasher() *hasher { return &hasher{make(chan struct{}, hashesAtOnce)} }

// key waits for a slot, but not for long: whoever floods must not queue up
// requests without bound either.
func (h *hasher) key(ctx context.Context, password string, p phc) ([]byte, error) {
	patience := time.NewTimer(hashPatience)
	defer patience.Stop()
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ErrLoginLimit.With(ctx.Err())
	case <-patience.C:
		return nil, ErrLoginLimit
	}
	defer func() { <-h.slots }()
	return argon2.IDKey([]byte(password), p.salt, p.passes, p.kib, p.lanes, uint32(len(p.tag))), nil
}

// hash returns password's PHC string.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	p := phc{kib: argonKiB, passes: argonPasses, lanes: argonLanes, salt: make([]byte, argonSalt), tag: make([]byte, argonTag)}
	rand.Read(p.salt)
	var err error
	if p.tag, err = h.key(ctx, password, p); err != nil {
		return "", err
	}
	return p.String(), nil
}

// verify reports whether password matches the PHC string stored. With nothing
// stored it takes as long and says no, so that time does not tell names apart.
func (h *hasher) verify(ctx context.Context, password, stored string) (bool, error) {
	p, ok := parsePHC(stored)
	if !ok {
		p = phc{kib: argonKiB, passes: argonPasses, lanes: argonLanes, salt: make([]byte, argonSalt), tag: make([]byte, argonTag)}
	}
	got, err := h.key(ctx, password, p)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, p.tag) == 1 && ok, nil
}

// phc is a parsed PHC string of Argon2id.
type phc struct {
	kib, passes uint32
	lanes       uint8
	salt, tag   []byte
}

func (p phc) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.kib, p.passes, p.lanes, b64.EncodeToString(p.salt), b64.EncodeToString(p.tag))
}

// parsePHC reads a PHC string within bounds that cannot exhaust the machine.
func parsePHC(s string) (p phc, ok bool) {
	part := strings.Split(s, "$")
	if len(part) != 6 || part[0] != "" || part[1] != "argon2id" || part[2] != "v="+strconv.Itoa(argon2.Version) {
		return p, false
	}
	param := strings.Split(part[3], ",")
	if len(param) != 3 {
		return p, false
	}
	m, okM := number(param[0], "m=", 8, 4*argonKiB)
	t, okT := number(param[1], "t=", 1, 16)
	l, okL := number(param[2], "p=", 1, 16)
	salt, errSalt := b64.DecodeString(part[4])
	tag, errTag := b64.DecodeString(part[5])
	if !okM || !okT || !okL || errSalt != nil || errTag != nil || len(salt) < 8 || len(salt) > 64 || len(tag) < 16 || len(tag) > 64 {
		return p, false
	}
	return phc{kib: uint32(m), passes: uint32(t), lanes: uint8(l), salt: salt, tag: tag}, true
}

func number(s, prefix string, least, most uint64) (uint64, bool) {
	digits, ok := strings.CutPrefix(s, prefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	return n, ok && err == nil && n >= least && n <= most
}

func checkPassword(name, password string) error {
	if len(password) < 12 || len(password) > 1024 || !utf8.ValidString(password) || strings.EqualFold(name, password) {
		return ErrNewPassword
	}
	return nil
}
