package inert

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text writes out control, bidirectional, invisible and unassigned characters
// as ⟨U+202E⟩, line feeds included. Invalid UTF-8 becomes U+FFFD.
func Text(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	if !strings.ContainsFunc(s, Hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if Hidden(r) {
			b.WriteString(Written(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Written is how a hidden character is written out.
func Written(r rune) string { return fmt.Sprintf("⟨U+%04X⟩", r) }

// Hidden reports whether a character is not seen as itself. Line feeds count:
// they could end the line that they are shown on.
func Hidden(r rune) bool {
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
