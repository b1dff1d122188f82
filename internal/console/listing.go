package console

import (
	"cmp"
	"encoding/csv"
	"encoding/json/v2"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// perPage is how many rows a table shows at once.
const perPage = 50

// column is one of a table. Value is what is exported and filtered by; rows are
// in its order, unless Less is given.
type column[T any] struct {
	Key, Title string
	Value      func(T) string
	Less       func(a, b T) int
	Number     bool // aligned to the right
}

// head is a column's heading, as a template shows it.
type head struct {
	Key, Title string
	Number     bool
	Sort       string // "", ascending, descending: as aria-sort has it
	Link       template.URL
}

// listing is a page of a table: sorted, filtered, and continued by key.
type listing[T any] struct {
	Heads     []head
	Rows      []T
	All       int // before filtering
	Found     int // after
	Filter    string
	Next      template.URL // of the next page, empty on the last
	First     template.URL // of the first page, empty on it
	CSV, JSON template.URL
	columns   []column[T]
	found     []T
}

// arrange makes a page of rows as the address asks: q filters, sort and desc
// order, after continues behind the row of that key.
func arrange[T any](v *visit, rows []T, key func(T) string, columns []column[T]) *listing[T] {
	l := &listing[T]{All: len(rows), Filter: strings.TrimSpace(v.Query("q")), columns: columns, found: filter(rows, v.Query("q"), columns)}
	sort, desc := v.Query("sort"), v.Query("desc") != ""
	sorted := slices.IndexFunc(columns, func(c column[T]) bool { return c.Key == sort })
	if sorted < 0 {
		sorted = 0
	}
	by := columns[sorted]
	less := by.Less
	if less == nil {
		less = func(a, b T) int { return cmp.Compare(strings.ToLower(by.Value(a)), strings.ToLower(by.Value(b))) }
	}
	slices.SortStableFunc(l.found, func(a, b T) int {
		if desc {
			a, b = b, a
		}
		return cmp.Or(less(a, b), strings.Compare(key(a), key(b)))
	})
	l.Found, l.Rows = len(l.found), l.found
	if after := v.Query("after"); after != "" {
		l.First = v.with("after", "")
		if i := slices.IndexFunc(l.Rows, func(r T) bool { return key(r) == after }); i >= 0 {
			l.Rows = l.Rows[i+1:]
		}
	}
	if len(l.Rows) > perPage {
		l.Rows = l.Rows[:perPage]
		l.Next = v.with("after", key(l.Rows[perPage-1]))
	}
	for i, c := range columns {
		h := head{Key: c.Key, Title: c.Title, Number: c.Number, Link: v.with("sort", c.Key, "desc", "", "after", "")}
		if i == sorted {
			h.Sort = "ascending"
			h.Link = v.with("sort", c.Key, "desc", "1", "after", "")
			if desc {
				h.Sort, h.Link = "descending", v.with("sort", c.Key, "desc", "", "after", "")
			}
		}
		l.Heads = append(l.Heads, h)
	}
	l.CSV, l.JSON = v.with("as", "csv", "after", ""), v.with("as", "json", "after", "")
	return l
}

// filter keeps the rows of which every word of q is somewhere in a column.
func filter[T any](rows []T, q string, columns []column[T]) []T {
	wanted := strings.Fields(strings.ToLower(q))
	out := make([]T, 0, len(rows))
	for _, r := range rows {
		var all strings.Builder
		if len(wanted) > 0 {
			for _, c := range columns {
				all.WriteString(strings.ToLower(c.Value(r)) + "\n")
			}
		}
		if !slices.ContainsFunc(wanted, func(w string) bool { return !strings.Contains(all.String(), w) }) {
			out = append(out, r)
		}
	}
	return out
}

// with returns the present address with other parameters; an empty value
// takes one away.
func (v *visit) with(kv ...string) template.URL {
	q := v.Request.URL.Query()
	q.Del("as")
	for i := 0; i+1 < len(kv); i += 2 {
		if q.Del(kv[i]); kv[i+1] != "" {
			q.Set(kv[i], kv[i+1])
		}
	}
	u := url.URL{Path: v.Request.URL.Path, RawQuery: q.Encode()}
	return template.URL(u.String()) //nolint:gosec // escaped
}

// table is what can be exported: its columns' names and its rows.
type table interface {
	table() (names []string, rows [][]string)
}

func (l *listing[T]) table() ([]string, [][]string) {
	names := make([]string, len(l.columns))
	for i, c := range l.columns {
		names[i] = c.Key
	}
	rows := make([][]string, len(l.found))
	for i, r := range l.found {
		for _, c := range l.columns {
			rows[i] = append(rows[i], c.Value(r))
		}
	}
	return names, rows
}

// export answers with the whole table that a page shows.
func (c *Console) export(w http.ResponseWriter, r *http.Request, v *visit, as string, data any) {
	t, ok := data.(table)
	if !ok || as != "csv" && as != "json" {
		c.missing(w, r)
		return
	}
	names, rows := t.table()
	h := w.Header()
	file := strings.ToLower(strings.ReplaceAll(v.Title, " ", "-")) + "-" + c.now().UTC().Format("20060102-150405") + "." + as
	h.Set("Content-Disposition", `attachment; filename="`+file+`"`)
	if as == "csv" {
		h.Set("Content-Type", "text/csv; charset=utf-8")
		out := csv.NewWriter(w)
		_ = out.Write(names) // a reader that went away is told by Flush, and nobody is there to be told
		for _, row := range rows {
			for i := range row {
				row[i] = noFormula(row[i])
			}
			_ = out.Write(row)
		}
		out.Flush()
		return
	}
	h.Set("Content-Type", "application/json")
	list := make([]map[string]string, len(rows))
	for i, row := range rows {
		list[i] = map[string]string{}
		for k, name := range names {
			list[i][name] = row[k]
		}
	}
	_ = json.MarshalWrite(w, list, json.Deterministic(true)) // the reader went away
}

// noFormula keeps a spreadsheet from running what an agent wrote.
func noFormula(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// exact is how a time is exported; never is empty.
func exact(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
