package words

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Inert shows foreign text so that it cannot change how anything around it is
// shown: control, bidirectional, invisible and unassigned characters are
// written out as ⟨U+202E⟩.
func Inert(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// hidden reports whether a character is not seen as itself. Line feeds count:
// they could end the line that they are shown on.
func hidden(r rune) bool {
	switch {
	case r == ' ':
		return false
	case r == 0x115F, r == 0x1160, r == 0x3164, r == 0xFFA0, r == 0x2800, r == 0x034F: // fillers and blanks that are letters to Unicode
		return true
	case r >= 0xFE00 && r <= 0xFE0F, r >= 0xE0100 && r <= 0xE01EF: // variation selectors
		return true
	}
	return !unicode.IsGraphic(r) || unicode.Is(unicode.Zs, r) || unicode.Is(unicode.Cf, r)
}

// Odd says what is unusual about the characters of a text: what a person who
// reads it would not see. Empty: nothing.
func Odd(s string) string {
	var notes []string
	if strings.ContainsFunc(s, hidden) {
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
