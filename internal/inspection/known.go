package inspection

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
)

// MinKnown is the length of the shortest value that the Known set takes, in
// bytes. Shorter ones would match by chance.
const MinKnown = 8

const window = 8

// Known is a set of secret values to look for. It keeps no value: of each form
// that a value may be written in, it keeps 32 bits of a keyed hash of two
// windows of eight bytes, and an HMAC-SHA256 of the whole under a key of this
// process. It is safe for concurrent use; a change counts for scans that begin
// after it returned.
type Known struct {
	mu      sync.Mutex
	entries map[string][]entry
	key     knownKey
	dirty   atomic.Bool                // entries changed since table was made
	table   atomic.Pointer[knownTable] // nil while the set is empty
}

type knownKey struct {
	mac      [32]byte
	add, mul uint64
}

// entry is one form of one value.
type entry struct {
	name   string
	length int
	at     int    // offset of the window that is looked for
	plain  bool   // that window begins with no telling byte
	hash   uint32 // of that window
	first  uint32 // of the first window, a cheap second look
	mac    [32]byte
	spread bool // base64: a character on either side holds bits of it
}

func newKnown() *Known {
	k := &Known{entries: map[string][]entry{}}
	rand.Read(k.key.mac[:]) // crypto/rand.Read never fails
	var b [16]byte
	rand.Read(b[:])
	k.key.add, k.key.mul = binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])|1
	return k
}

// Set makes values the known values of name, in place of what it had. Values
// shorter than MinKnown, or of white space alone, are left out; with none left the name is forgotten.
func (k *Known) Set(name string, values ...[]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.entries, name)
	k.add(name, values)
	k.dirty.Store(true)
}

// Add makes value a known value of name besides those it has.
func (k *Known) Add(name string, value []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.add(name, [][]byte{value}) {
		k.dirty.Store(true)
	}
}

// Remove forgets name and its values.
func (k *Known) Remove(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.entries, name)
	k.dirty.Store(true)
}

// add reports whether anything was new.
func (k *Known) add(name string, values [][]byte) (added bool) {
	for _, value := range values {
		if len(value) < MinKnown || len(bytes.TrimSpace(value)) == 0 {
			continue
		}
		for _, f := range forms(value) {
			e := k.key.entry(name, f)
			same := func(have entry) bool { return have.length == e.length && have.mac == e.mac }
			if !slices.ContainsFunc(k.entries[name], same) {
				k.entries[name], added = append(k.entries[name], e), true
			}
			clear(f.text)
		}
	}
	return added
}

// form is one way to write a value that no view decodes.
type form struct {
	text   []byte
	spread bool
}

// forms returns the ways to write value: as it is, with plus signs for spaces,
// in hex, and inside base64 at each of the three alignments, where the
// characters that also hold neighbouring bits are left out.
func forms(value []byte) []form {
	out := []form{{text: slices.Clone(value)}}
	if bytes.IndexByte(value, ' ') >= 0 {
		out = append(out, form{text: bytes.ReplaceAll(value, []byte(" "), []byte("+"))})
	}
	digits := hex.AppendEncode(nil, value)
	out = append(out, form{text: digits}, form{text: bytes.ToUpper(digits)})
	for shift := range 3 {
		padded := append(make([]byte, shift, shift+len(value)), value...)
		from, to := (shift*8+5)/6, len(padded)*8/6
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := slices.Clone(enc.AppendEncode(nil, padded)[from:to])
			out = append(out, form{text, true})
		}
		clear(padded)
	}
	return out
}

func (k *knownKey) window(b []byte) uint32 {
	return uint32((binary.LittleEndian.Uint64(b) ^ k.add) * k.mul >> 32)
}

func (k *knownKey) digest(b []byte) (sum [32]byte) {
	m := hmac.New(sha256.New, k.mac[:])
	m.Write(b)
	m.Sum(sum[:0])
	return sum
}

func (k *knownKey) entry(name string, f form) entry {
	best, at := -1, 0
	for i := 0; i+window <= len(f.text); i++ {
		// The most varied window: a common beginning ("Bearer ", "postgres") hits too often.
		n := distinct(f.text[i : i+window])
		if isTelling(f.text[i]) {
			n += window
		}
		if n >= best {
			best, at = n, i
		}
	}
	return entry{
		name: name, length: len(f.text), at: at, plain: !isTelling(f.text[at]), spread: f.spread,
		hash: k.window(f.text[at:]), first: k.window(f.text), mac: k.digest(f.text),
	}
}

// isTelling reports whether c is a digit or a capital: few bytes of prose are,
// and nearly every credential has some.
func isTelling(c byte) bool { return isDigit(c) || isUpper(c) }

// telling returns the highest bit of each telling byte of x.
func telling(x uint64) uint64 { return between(x, '0', '9') | between(x, 'A', 'Z') }

// between returns the highest bit of each byte of x that is first, last or
// between them, which are ASCII.
func between(x, first, last uint64) uint64 {
	const each = 0x0101010101010101
	low := x & (0x7f * each)
	return (low + (0x80-first)*each) &^ (low + (0x7f-last)*each) &^ x & (0x80 * each)
}

// current returns the table of the entries, nil if there are none. It is made
// when a scan first needs it, so that loading many secrets costs little.
func (k *Known) current() *knownTable {
	if !k.dirty.Load() {
		return k.table.Load()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dirty.Load() {
		k.table.Store(k.build())
		k.dirty.Store(false)
	}
	return k.table.Load()
}

func (k *Known) build() *knownTable {
	if len(k.entries) == 0 {
		return nil
	}
	var telling, plain []entry
	t := &knownTable{key: k.key, firsts: map[uint32]int{}}
	for _, entries := range k.entries {
		for _, e := range entries {
			if e.plain {
				plain = append(plain, e)
			} else {
				telling = append(telling, e)
			}
			t.firsts[e.first] = max(t.firsts[e.first], e.length)
			t.longest = max(t.longest, e.length)
		}
	}
	t.telling, t.plain = tableOf(telling), tableOf(plain)
	return t
}

// knownTable is a Known set frozen for scanning.
type knownTable struct {
	key     knownKey
	telling windows        // that begin with a telling byte
	plain   windows        // all others
	firsts  map[uint32]int // by hash of the first window: the longest value that begins with it
	longest int            // of all
}

// windows are the windows to look for.
type windows struct {
	shift  uint32
	bits   []uint64
	groups map[uint32][]entry // by hash of the window
}

// tableOf makes the bit set so large that about one in sixty places of ordinary
// text passes: 8 KiB at least, 512 KiB at most.
func tableOf(entries []entry) windows {
	bits := uint32(16)
	for bits < 22 && 1<<bits < len(entries)*64 {
		bits++
	}
	w := windows{shift: 32 - bits, groups: map[uint32][]entry{}, bits: make([]uint64, 1<<bits/64)}
	for _, e := range entries {
		slot := e.hash >> w.shift
		w.bits[slot>>6] |= 1 << (slot & 63)
		w.groups[e.hash] = append(w.groups[e.hash], e)
	}
	return w
}

// scan appends where known values stand in b.
func (t *knownTable) scan(b []byte, found []Finding) []Finding {
	if len(t.telling.groups) > 0 {
		found = t.scanTelling(b, found)
	}
	if len(t.plain.groups) > 0 {
		found = t.scanPlain(b, found)
	}
	return found
}

func (t *knownTable) scanTelling(b []byte, found []Finding) []Finding {
	add, mul, set, shift := t.key.add, t.key.mul, t.telling.bits, 32+t.telling.shift
	i := 0
	for ; i+2*window <= len(b); i += window {
		for m := telling(binary.LittleEndian.Uint64(b[i:])); m != 0; m &= m - 1 {
			at := i + bits.TrailingZeros64(m)/8
			if h := ((binary.LittleEndian.Uint64(b[at:]) ^ add) * mul) >> shift; set[h>>6]>>(h&63)&1 != 0 {
				found = t.at(&t.telling, b, at, found)
			}
		}
	}
	for ; i+window <= len(b); i++ {
		found = t.at(&t.telling, b, i, found)
	}
	return found
}

// scanPlain looks at four places between branches.
func (t *knownTable) scanPlain(b []byte, found []Finding) []Finding {
	add, mul, bits, shift := t.key.add, t.key.mul, t.plain.bits, 32+t.plain.shift
	i := 0
	for ; i+window+3 <= len(b); i += 4 {
		w := b[i : i+window+3 : i+window+3]
		h0 := ((binary.LittleEndian.Uint64(w) ^ add) * mul) >> shift
		h1 := ((binary.LittleEndian.Uint64(w[1:]) ^ add) * mul) >> shift
		h2 := ((binary.LittleEndian.Uint64(w[2:]) ^ add) * mul) >> shift
		h3 := ((binary.LittleEndian.Uint64(w[3:]) ^ add) * mul) >> shift
		if (bits[h0>>6]>>(h0&63)|bits[h1>>6]>>(h1&63)|bits[h2>>6]>>(h2&63)|bits[h3>>6]>>(h3&63))&1 != 0 {
			for n := range 4 {
				found = t.at(&t.plain, b, i+n, found)
			}
		}
	}
	for ; i+window <= len(b); i++ {
		found = t.at(&t.plain, b, i, found)
	}
	return found
}

// at appends the known values whose looked-for window stands at i.
func (t *knownTable) at(w *windows, b []byte, i int, found []Finding) []Finding {
	h := t.key.window(b[i:])
	slot := h >> w.shift
	if w.bits[slot>>6]&(1<<(slot&63)) == 0 {
		return found
	}
	for _, e := range w.groups[h] {
		if f, ok := t.confirm(b, i, &e); ok {
			found = append(found, f)
		}
	}
	return found
}

func (t *knownTable) confirm(b []byte, i int, e *entry) (Finding, bool) {
	start := i - e.at
	end := start + e.length
	if start < 0 || end > len(b) || t.key.window(b[start:]) != e.first || t.key.digest(b[start:end]) != e.mac {
		return Finding{}, false
	}
	if e.spread && start > 0 && base64Any[b[start-1]] {
		start--
	}
	if e.spread && end < len(b) && base64Any[b[end]] {
		end++
	}
	return Finding{Kind: Secrets, Rule: KnownRule, Start: start, End: end, Name: e.name}, true
}
