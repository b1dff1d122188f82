package words

import (
	"slices"
	"strings"
	"unicode"

	"github.com/countersign/countersign/internal/inert"
)

// Odd says what is unusual about the characters of a text: what a person who
// reads it would not see. Empty: nothing.
func Odd(s string) string {
	var notes []string
	if strings.ContainsFunc(s, inert.Hidden) {
		notes = append(notes, "has characters that are not seen as themselves")
	}
	if scripts := mixed(s); scripts != "" {
		notes = append(notes, "mixes "+scripts+" letters in one word")
	}
	return strings.Join(notes, "; ")
}

// alike are the scripts whose letters look like those of another.
var alike = map[string]*unicode.RangeTable{
	"Latin": unicode.Latin, "Greek": unicode.Greek, "Cyrillic": unicode.Cyrillic, "Armenian": unicode.Armenian, "Cherokee": unicode.Cherokee,
}

// mixed names the scripts of the first word that is written in more than one of
// those whose letters look alike.
func mixed(s string) string {
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsMark(r) }) {
		var found []string
		for name, table := range alike {
			if strings.ContainsFunc(word, func(r rune) bool { return unicode.Is(table, r) }) {
				found = append(found, name)
			}
		}
		if len(found) > 1 {
			slices.Sort(found)
			return strings.Join(found, " and ")
		}
	}
	return ""
}

// Short cuts a text to 120 characters.
func Short(s string) string {
	const most = 120
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most]) + "…"
}
