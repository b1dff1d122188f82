package inspection

import (
	"sort"
	"sync"
)

// Limits of decoding. Each view costs one more pass over the input.
const (
	maxViews = 6 // decoded texts that are looked at, of all kinds together
	maxDepth = 3 // decodings on top of each other: JSON in JSON in JSON
)

// How much of a text on either side of what is decoded is part of a view, so
// that few escapes in a long text cost little. Matchers look no further, but for
// known values, which make it more, and for words, which are cut only if they
// are longer than longestWord.
const around, longestWord = 4 << 10, 16 << 10

// views are reused: decoding a long prompt would otherwise keep the collector busy.
var views = sync.Pool{New: func() any { return new(view) }}

// release gives v back, unless it grew so large that it is better dropped.
func (v *view) release() {
	if cap(v.text) <= 4<<20 {
		clear(v.text) // it may hold what must not stay in memory
		*v = view{text: v.text[:0], anchors: v.anchors[:0], pieces: v.pieces[:0]}
		views.Put(v)
	}
}

// view is a decoded form of the input: of all of it, or of pieces around what
// was decoded. Between two anchors positions run in step. Anchors come in pairs:
// before and after a decoded escape, and where one piece ends and the next begins.
type view struct {
	text    []byte
	anchors []anchor
	pieces  []piece
	parent  *view // nil: decoded from the input itself
	depth   int
	around  int
	lines   bool // all that was decoded are breaks of lines, and tabs, and nothing was left out

	// While a piece of the source is decoded:
	open   bool // the last of pieces goes on
	copied int  // up to where the source is in text
}

type anchor struct{ decoded, source int }

// piece is a part of a text that is looked at by itself. It begins and ends with
// the input, or was cut there.
type piece struct {
	start, end  int
	first, last bool
}

// source maps a position of the view to the input: for a position inside what
// one escape gave, its start, or its end when end is set.
func (v *view) source(pos int, end bool) int {
	for ; v != nil; v = v.parent {
		pos = v.above(pos, end)
	}
	return pos
}

func (v *view) above(pos int, end bool) int {
	i := sort.Search(len(v.anchors), func(i int) bool { return v.anchors[i].decoded > pos }) - 1
	if i < 0 {
		return pos
	}
	a := v.anchors[i]
	opens := i%2 == 0 // anchors come in pairs: where an escape begins, where it ends
	if !opens || a.decoded == pos {
		// Of an end, what stands before pos counts: an escape that begins here is outside.
		return a.source + pos - a.decoded
	}
	if end {
		return v.anchors[i+1].source
	}
	return a.source
}

// scanAll returns what stands in b, and behind escapes, encodings and disguise.
// What a text says whose line breaks are escaped is said by its decoded form:
// in the text itself only known values are looked for.
func scanAll(b []byte, table *knownTable, kinds Kinds) []Finding {
	input := view{text: b, pieces: []piece{{0, len(b), true, true}}, around: around}
	if table != nil {
		input.around = max(around, 2*table.longest)
	}
	queue := input.decodings(nil)
	found := input.scan(table, kinds, queue, nil)
	for n := 0; n < len(queue) && n < maxViews; n++ {
		v := queue[n]
		var inner []*view
		if v.depth < maxDepth && len(queue) < maxViews {
			inner = v.decodings(v)
		}
		from := len(found)
		found = v.scan(table, kinds, inner[:min(len(inner), max(0, maxViews-len(queue)))], found)
		for i := from; i < len(found); i++ {
			found[i].Start, found[i].End = v.source(found[i].Start, false), v.source(found[i].End, true)
		}
		queue = append(queue, inner...)
	}
	for _, v := range queue {
		v.release()
	}
	return found
}

// scan appends what stands in v, the decoded forms of which are looked at besides.
func (v *view) scan(table *knownTable, kinds Kinds, decoded []*view, found []Finding) []Finding {
	known := len(decoded) > 0 && decoded[0].lines
	for _, p := range v.pieces {
		text, from := v.text[p.start:p.end:p.end], len(found)
		switch {
		case !known:
			found = scanView(text, table, kinds, found)
		case kinds&Secrets != 0:
			found = scanKnown(text, table, found)
		}
		kept := found[:from]
		for _, f := range found[from:] {
			if p.last || f.Start < len(text)-v.around/2 { // else what was cut off could change it, and it is no result of decoding
				if p.first || f.End > v.around/2 {
					f.Start, f.End = f.Start+p.start, f.End+p.start
					kept = append(kept, f)
				}
			}
		}
		found = kept
	}
	return found
}

// decoders are the ways to decode, each of which leaves no anchor if there was
// nothing for it.
var decoders = []func(*view, []byte, piece){(*view).unescape, (*view).unpercent, (*view).unmask, (*view).unpack}

// decodings returns the decoded forms of v, whose parent is v, or nil for the input.
func (v *view) decodings(parent *view) []*view {
	var out []*view
	for _, decode := range decoders {
		d := views.Get().(*view)
		d.parent, d.depth, d.around, d.lines = parent, v.depth+1, v.around, len(v.pieces) == 1
		for _, p := range v.pieces {
			decode(d, v.text, p)
		}
		if len(d.anchors) > 0 {
			out = append(out, d)
		} else {
			d.release()
		}
	}
	return out
}
