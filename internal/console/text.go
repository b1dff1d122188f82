package console

import (
	"fmt"
	"html/template"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/inert"
)

// Limits of foreign text on a page, in characters.
const (
	mostText  = 400    // of a value in a line
	mostLines = 20_000 // of a payload
)

// plain is text of the person's own, for a form to be sent back as it was.
type plain string

// text is what every value that a template prints goes through: see parse. What
// our own functions made passes; anything else is foreign, and shown inert.
func text(v any) any {
	switch v := v.(type) {
	case template.HTML, template.URL:
		return v
	case plain:
		return string(v)
	case string:
		return inertHTML(v, mostText, false)
	case nil:
		return ""
	}
	return inertHTML(fmt.Sprint(v), mostText, false)
}

// lines is text for values of several lines, such as payloads.
func lines(s string) template.HTML { return inertHTML(s, mostLines, true) }

// dotted is a name of several words with dots between, which may break after each.
func dotted(s string) template.HTML {
	return template.HTML(strings.ReplaceAll(string(inertHTML(s, mostLines, false)), ".", ".<wbr>")) //nolint:gosec // escaped, and no escape has a dot
}

// inertHTML escapes s and writes out what is not seen as itself, marked so that
// it stands out. Line feeds and tabs stay where multi says so. What is longer
// than most characters is cut, and says so.
func inertHTML(s string, most int, multi bool) template.HTML {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	s, more := cut(s, most)
	var b strings.Builder
	rtl, from := false, 0
	for i, r := range s {
		rtl = rtl || r >= 0x590 && unicode.In(r, unicode.Hebrew, unicode.Arabic, unicode.Syriac, unicode.Thaana, unicode.Nko, unicode.Adlam)
		if !inert.Hidden(r) || multi && (r == '\n' || r == '\t') {
			continue
		}
		template.HTMLEscape(&b, []byte(s[from:i]))
		b.WriteString(`<span class="odd">` + inert.Written(r) + `</span>`)
		from = i + utf8.RuneLen(r)
	}
	template.HTMLEscape(&b, []byte(s[from:]))
	out := b.String()
	if rtl { // must not change the order of what is around it
		out = "<bdi>" + out + "</bdi>"
	}
	if more > 0 {
		out += fmt.Sprintf(`<span class="cut">… %d more characters</span>`, more)
	}
	return template.HTML(out) //nolint:gosec // escaped piece by piece above
}

// cut returns the first most characters of s and how many are left out.
func cut(s string, most int) (string, int) {
	if len(s) <= most {
		return s, 0
	}
	n := 0
	for i := range s {
		if n == most {
			return s[:i], utf8.RuneCountInString(s[i:])
		}
		n++
	}
	return s, 0
}
