package cli

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// ANSI colours, used on terminals only and never when NO_COLOR is set.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "34"
	dim    = "2"
	bold   = "1"
)

func colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

func (a *app) paint(w io.Writer, colour, text string) string {
	if text == "" || !colours(w) {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// printJSON writes v indented.
func (a *app) printJSON(v any) error {
	b, err := json.Marshal(v, jsontext.WithIndent("  "), json.FormatNilSliceAsNull(false))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", b)
	return err
}

// column is one column of a table over T.
type column[T any] struct {
	title string
	text  func(T) string
	paint func(T) string // colour, may be nil
}

// list prints rows as a table, or as a JSON array with -o json. empty says
// what to do when there are none.
func list[T any](a *app, rows []T, empty string, columns ...column[T]) error {
	if a.output == "json" {
		if rows == nil {
			rows = []T{}
		}
		return a.printJSON(rows)
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.stdout, empty)
		return nil
	}
	cells := make([][]string, len(rows))
	width := make([]int, len(columns))
	for c, col := range columns {
		width[c] = utf8.RuneCountInString(col.title)
	}
	for r, row := range rows {
		for c, col := range columns {
			text := inert(col.text(row), 60)
			cells[r] = append(cells[r], text)
			width[c] = max(width[c], utf8.RuneCountInString(text))
		}
	}
	a.printRow(columnTitles(columns), width, func(int) string { return dim })
	for r, row := range rows {
		a.printRow(cells[r], width, func(c int) string {
			if columns[c].paint == nil {
				return ""
			}
			return columns[c].paint(row)
		})
	}
	return nil
}

func columnTitles[T any](columns []column[T]) []string {
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	return titles
}

func (a *app) printRow(cells []string, width []int, colour func(int) string) {
	var sb strings.Builder
	for c, text := range cells {
		pad := ""
		if c < len(cells)-1 {
			pad = strings.Repeat(" ", width[c]-utf8.RuneCountInString(text)+2)
		}
		if col := colour(c); col != "" {
			text = a.paint(a.stdout, col, text)
		}
		sb.WriteString(text + pad)
	}
	fmt.Fprintln(a.stdout, sb.String())
}

// field is one line of a detail view.
type field struct{ name, value, colour string }

func row(name, value string) field { return field{name, value, ""} }

func painted(name, value, colour string) field { return field{name, value, colour} }

// show prints v as JSON with -o json, else fields as aligned lines.
func (a *app) show(v any, fields ...field) error {
	if a.output == "json" {
		return a.printJSON(v)
	}
	width := 0
	for _, f := range fields {
		width = max(width, len(f.name))
	}
	for _, f := range fields {
		if f.value == "" {
			continue
		}
		value := strings.ReplaceAll(inertLines(f.value), "\n", "\n"+strings.Repeat(" ", width+2))
		if f.colour != "" {
			value = a.paint(a.stdout, f.colour, value)
		}
		fmt.Fprintf(a.stdout, "%s%s  %s\n", a.paint(a.stdout, dim, f.name), strings.Repeat(" ", width-len(f.name)), value)
	}
	return nil
}

// inert makes foreign text safe to print on one line of at most n characters:
// no control characters, no bidirectional or invisible formatting.
func inert(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.Is(unicode.Cf, r) || unicode.IsControl(r) || r == utf8.RuneError:
			return '\ufffd'
		}
		return r
	}, s)
	if n > 0 && utf8.RuneCountInString(s) > n {
		r := []rune(s)
		s = string(r[:n-1]) + "…"
	}
	return s
}

// inertLines is inert for text of several lines.
func inertLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = inert(l, 0)
	}
	return strings.Join(lines, "\n")
}

// counted is a number with its noun.
func counted(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// ago says how long ago t was, for people.
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return span(time.Since(t)) + " ago"
}

// until says how long it is to t.
func until(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if d := time.Until(t); d > 0 {
		return "in " + span(d)
	}
	return "expired"
}

func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Round(time.Minute).Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Round(time.Hour).Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24+0.5))
}

// done says what was done, in one line, unless the output is JSON.
func (a *app) done(format string, args ...any) {
	if a.output == "json" {
		return
	}
	fmt.Fprintf(a.stdout, "%s %s\n", a.paint(a.stdout, green, "ok"), fmt.Sprintf(format, args...))
}
