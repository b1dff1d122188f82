package flow

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// text is what a person said, ready to be asked whether it holds a value.
type text struct {
	lexemes []string // between spaces, without the punctuation around them
	tokens  []string // letters and digits
	at      map[string][]int32
	in      map[string][]int32
}

func (t *text) add(s string) {
	if t.at == nil {
		t.at, t.in = map[string][]int32{}, map[string][]int32{}
	}
	// What one text ends with and the next begins with do not belong together.
	t.push(&t.lexemes, t.at, append(lexemes(s), "\n"))
	t.push(&t.tokens, t.in, append(tokens(s), "\n"))
}

func (t *text) push(to *[]string, index map[string][]int32, words []string) {
	for _, w := range words {
		index[w] = append(index[w], int32(len(*to))) //nolint:gosec // bounded by maxText
		*to = append(*to, w)
	}
}

// says reports whether the value stands in the text, whole, between spaces and
// punctuation, whatever its case.
func (t *text) says(value string) bool { return within(t.lexemes, t.at, lexemes(value)) }

// names reports whether the words of a name stand in the text in their order.
func (t *text) names(words []string) bool { return within(t.tokens, t.in, words) }

func (t *text) has(word string) bool { return len(t.in[word]) > 0 }

func within(all []string, index map[string][]int32, want []string) bool {
	if len(want) == 0 {
		return false
	}
	rarest := 0
	for i, w := range want {
		if len(index[w]) < len(index[want[rarest]]) {
			rarest = i
		}
	}
	return slices.ContainsFunc(index[want[rarest]], func(at int32) bool {
		from := int(at) - rarest
		return from >= 0 && from+len(want) <= len(all) && slices.Equal(all[from:from+len(want)], want)
	})
}

// lexemes splits at spaces and takes off the punctuation around each piece.
func lexemes(s string) []string {
	var out []string
	for w := range strings.FieldsSeq(fold(s)) {
		w = strings.TrimFunc(w, around)
		if cut := strings.TrimSuffix(strings.TrimSuffix(w, "'s"), "’s"); cut != "" {
			w = cut
		}
		if w != "" {
			out = append(out, w)
		}
	}
	return out
}

// around is punctuation that belongs to the sentence, not to the value. Signs
// that begin names or numbers stay.
func around(r rune) bool {
	return (unicode.IsPunct(r) && !strings.ContainsRune("@#_-+/%*&", r)) || r == '`' || r == '<' || r == '>'
}

// tokens are the runs of letters and digits.
func tokens(s string) []string {
	return strings.FieldsFunc(fold(s), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.Is(unicode.M, r) })
}

// fold makes letters small and drops what is not seen, so that it neither
// parts nor joins words.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}
