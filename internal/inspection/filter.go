package inspection

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// The prefilter: a bit per hash of four bytes folded to lower case, the gram.
// Only every second place of a text is looked at, so each rule has two grams, one
// for literals that begin at an even place and one for those at an odd place: the
// rarest four bytes of the literal, with the byte before or after it where it is short.
const (
	gramBits = 19
	gramMul  = 0x9E3779B1 // 2^32 divided by the golden ratio
	foldMask = 0x2020202020202020
)

type prefilter struct {
	bits   [1 << gramBits / 64]uint64
	index  [1 << (gramBits - 2)]uint16 // into groups, by the upper bits of the hash
	groups [][]probe
}

// probe is how a rule is recognised around a gram. It looks at no more than the
// first eight bytes of the literal.
type probe struct {
	want, mask, fold uint64
	rule             *rule
	at               int // where the gram stands, counted from the literal's beginning
}

var filter = sync.OnceValue(func() *prefilter { return buildFilter(rules) })

// gramHash hashes the low four bytes of g, which must be folded.
func gramHash(g uint64) uint32 { return uint32(g) * gramMul >> (32 - gramBits) }

func (f *prefilter) has(h uint32) bool { return f.bits[h>>6]&(1<<(h&63)) != 0 }

func buildFilter(rules []rule) *prefilter {
	f := &prefilter{groups: [][]probe{nil}}
	slots := map[uint32][]probe{}
	for i := range rules {
		r := &rules[i]
		for parity := range 2 {
			at := r.rarest(parity)
			p := r.probe(at)
			for h := range r.hashes(at) {
				f.bits[h>>6] |= 1 << (h & 63)
				if !slices.Contains(slots[h>>2], p) {
					slots[h>>2] = append(slots[h>>2], p)
				}
			}
		}
	}
	same := map[string]uint16{} // few groups differ
	for slot, group := range slots {
		var key strings.Builder
		for _, p := range group {
			fmt.Fprint(&key, p.rule.index, " ", p.at, " ")
		}
		if same[key.String()] == 0 {
			same[key.String()] = uint16(len(f.groups))
			f.groups = append(f.groups, group)
		}
		f.index[slot] = same[key.String()]
	}
	return f
}

func (r *rule) probe(at int) probe {
	p := probe{rule: r, at: at}
	var want, mask, fold [8]byte
	for i := range min(8, len(r.literal)) {
		want[i], mask[i] = r.literal[i], 0xff
		if r.fold {
			fold[i] = 0x20
			want[i] |= 0x20
		}
	}
	p.want, p.mask, p.fold = binary.LittleEndian.Uint64(want[:]), binary.LittleEndian.Uint64(mask[:]), binary.LittleEndian.Uint64(fold[:])
	return p
}

// rarest returns where a gram of the rule stands that ordinary text has seldom,
// at an even or an odd distance from the literal's beginning: the more common a
// letter, the later it comes in order.
func (r *rule) rarest(parity int) int {
	const order = "jqxz0123456789<|[]:/~@#!_-.'kvbpwygmfculdhrsnioate "
	best, where := -1, 0
	literal := strings.ToLower(r.literal)
	last := len(literal) - 4
	if last == 0 && r.next != nil {
		last++
	}
	for at := -parity; at == -parity || at <= last; at += 2 {
		score := 0
		for i := at; i < at+4; i++ {
			if i < 0 || i >= len(literal) {
				score += 20 + r.slot(i).folded()/2
			} else {
				score += strings.IndexByte(order, literal[i])
			}
		}
		if best < 0 || score < best {
			best, where = score, at
		}
	}
	return where
}

// notAlnum is what may stand before a literal that begins a word.
var notAlnum = func() *class {
	var c class
	for i := range c {
		c[i] = !alnum[i]
	}
	return &c
}()

// slot returns what may stand i bytes after the beginning of the rule's literal,
// or before it.
func (r *rule) slot(i int) *class {
	switch {
	case i < 0 && r.begun:
		return notAlnum
	case i < 0:
		return anything
	case i >= len(r.literal):
		return r.next
	}
	return classOf(r.literal[i:i+1] + r.literal[i:i+1])
}

// folded returns how many bytes of c differ when they are folded.
func (c *class) folded() (n int) {
	var done class
	for i, in := range c {
		if in && !done[i|0x20] {
			done[i|0x20] = true
			n++
		}
	}
	return n
}

// hashes returns the hashes of the grams that may stand at a distance from the
// beginning of the rule's literal.
func (r *rule) hashes(at int) map[uint32]bool {
	into := map[uint32]bool{}
	gramHashes([]*class{r.slot(at), r.slot(at + 1), r.slot(at + 2), r.slot(at + 3)}, 0, 0, into)
	return into
}

// gramHashes adds the hashes of all grams of which n bytes are in g and the
// others are of slots.
func gramHashes(slots []*class, g uint64, n int, into map[uint32]bool) {
	if n == len(slots) {
		into[gramHash(g)] = true
		return
	}
	var done class
	for c := range 256 {
		if folded := c | 0x20; slots[n][c] && !done[folded] {
			done[folded] = true
			gramHashes(slots, g|uint64(folded)<<(8*n), n+1, into)
		}
	}
}

// hunt is one pass of the rules over one text.
type hunt struct {
	*prefilter
	b     []byte
	kinds Kinds
	found []Finding
	seen  *[]int // per rule: where its last match ended, so that no run is walked twice
	last  struct {
		at   int // where the literal of the last of found stands
		rule *rule
	}
}

// ends are reused, all zero: most texts are short.
var ends = sync.Pool{New: func() any { seen := make([]int, len(rules)); return &seen }}

// scanRules appends what the rules find in b.
func scanRules(b []byte, kinds Kinds, found []Finding) []Finding {
	f := filter()
	h := hunt{prefilter: f, b: b, kinds: kinds, found: found}
	bits := &f.bits
	i := 0
	for ; i+10 <= len(b); i += 8 {
		w := b[i : i+10 : i+10]
		x := binary.LittleEndian.Uint64(w) | foldMask
		g0, g1, g2, g3 := gramHash(x), gramHash(x>>16), gramHash(x>>32), gramHash(uint64(binary.LittleEndian.Uint32(w[6:]))|foldMask)
		if (bits[g0>>6]>>(g0&63)|bits[g1>>6]>>(g1&63)|bits[g2>>6]>>(g2&63)|bits[g3>>6]>>(g3&63))&1 == 0 {
			continue
		}
		if f.has(g0) {
			h.at(i, g0)
		}
		if f.has(g1) {
			h.at(i+2, g1)
		}
		if f.has(g2) {
			h.at(i+4, g2)
		}
		if f.has(g3) {
			h.at(i+6, g3)
		}
	}
	for ; i+4 <= len(b); i += 2 {
		if g := gramHash(uint64(binary.LittleEndian.Uint32(b[i:])) | foldMask); f.has(g) {
			h.at(i, g)
		}
	}
	if h.seen != nil {
		clear(*h.seen)
		ends.Put(h.seen)
	}
	return h.found
}

// at tries the rules of a gram that stands at i.
func (h *hunt) at(i int, gram uint32) {
	group := h.groups[h.index[gram>>2]]
	for n := range group {
		p := &group[n]
		at := i - p.at
		if at < 0 || at+8 <= len(h.b) && (binary.LittleEndian.Uint64(h.b[at:])|p.fold)&p.mask != p.want {
			continue
		}
		if r := p.rule; r.kind&h.kinds != 0 && r.begins(h.b[at:]) && (h.seen == nil || at >= (*h.seen)[r.index]) {
			h.match(r, at)
		}
	}
}

func (h *hunt) match(r *rule, i int) {
	start, end, ok := r.match(h.b, i)
	if end > 0 {
		if h.seen == nil {
			h.seen = ends.Get().(*[]int)
		}
		(*h.seen)[r.index] = end
	}
	if !ok {
		return
	}
	f := Finding{Kind: r.kind, Rule: r.name, Start: start, End: end}
	if l := h.last.rule; l != nil && h.last.at == i && l.index > r.index { // of rules that begin at one place the first has its name in front
		if n := len(h.found) - 1; h.found[n].Start == start && h.found[n].End == end {
			f, h.found[n] = h.found[n], f
		}
	}
	h.found, h.last.at, h.last.rule = append(h.found, f), i, r
}
