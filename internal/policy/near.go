package policy

import (
	"iter"
	"strings"
)

// distance returns the edit distance (Damerau, adjacent swaps) of a and b, or
// something above limit once it exceeds it.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// nearest returns the candidate that word was probably meant to be, "" if none
// is near.
func nearest(word string, candidates iter.Seq[string]) string {
	if len(word) > 200 {
		return ""
	}
	// A name that grew or shrank at its end is nearer than the distance says.
	grown := func(c string) bool {
		return min(len(c), len(word)) >= 4 && (strings.HasPrefix(c, word) || strings.HasPrefix(word, c))
	}
	limit := max(1, min(3, len(word)/3))
	best, found := limit+1, ""
	for c := range candidates {
		d := distance(word, c, limit)
		if grown(c) {
			d = min(d, limit)
		}
		if d < best || d == best && found != "" && c < found {
			best, found = d, c
		}
	}
	return found
}

// didYouMean returns "; did you mean …?" or nothing.
func didYouMean(word string, candidates iter.Seq[string]) string {
	if n := nearest(word, candidates); n != "" {
		return "; did you mean " + n + "?"
	}
	return ""
}
