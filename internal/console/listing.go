package console

import (
	"cmp"
	"encoding/csv"
	"encoding/json/v2"
	"fmt"
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
	Number     bool   // aligned to the right
	By         string // in a table that the API sorts: what it calls this column, empty if it cannot sort by it
}

// head is a column's heading, as a template shows it.
type head struct {
	Key, Title string
	Number     bool
	Sort       string       // "", ascending, descending: as aria-sort has it
	Link       template.URL // empty: the column does not sort
}

// kept is a parameter of a page's address that filtering leaves as it is.
type kept struct{ Name, Value string }

// kept returns the parameters that say which rows and in what order, but for
// the filter and the page.
func (v *visit) kept() []kept {
	var out []kept
	for name, values := range v.Request.URL.Query() {
		if name != "q" && name != "after" && name != "as" {
			out = append(out, kept{name, values[0]})
		}
	}
	slices.SortFunc(out, func(a, b kept) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// listing is a page of a table: sorted, filtered, and continued by key.
type listing[T any] struct {
	Heads     []head
	Rows      []T
	All       int    // before filtering
	Found     int    // after
	Note      string // of a table that the API pages: how much is here, and by what it sorts
	Filter    string
	Next      template.URL // of the next page, empty on the last
	First     template.URL // of the first page, empty on it
	CSV, JSON template.URL
	Kept      []kept // of the address, for the form that filters
	columns   []column[T]
	found     []T
}

// arrange makes a page of rows as the address asks: q filters, sort and desc
// order, after continues behind the row of that key.
func arrange[T any](v *visit, rows []T, key func(T) string, columns []column[T]) *listing[T] {
	l := &listing[T]{Kept: v.kept(), All: len(rows), Filter: strings.TrimSpace(v.Query("q")), columns: columns, found: filter(rows, v.Query("q"), columns)}
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

// mostExported is how many rows of a table that the API pages are exported; the
// command line has no limit.
const mostExported = 10_000

// ask is a question to the API for a page of rows: in the order of a column,
// falling unless rising, behind a cursor. It returns the next page's cursor.
type ask[T any] func(by string, rising bool, cursor string, limit int) (rows []T, next string, err error)

// paged makes a page of a table that is too long to be looked at whole: the API
// sorts, filters and continues it. The first column with By is the order unless
// the address asks for another.
func paged[T any](v *visit, get ask[T], columns []column[T]) (*listing[T], error) {
	l := &listing[T]{Kept: v.kept(), Filter: strings.TrimSpace(v.Query("q")), columns: columns}
	by, rising, after := v.Query("sort"), v.Query("rising") != "", v.Query("after")
	sorted := slices.IndexFunc(columns, func(c column[T]) bool { return c.By != "" && c.Key == by })
	if sorted < 0 {
		sorted = max(0, slices.IndexFunc(columns, func(c column[T]) bool { return c.By != "" }))
	}
	limit := perPage
	exported := v.Query("as") != ""
	if exported {
		limit = 1000
	}
	for next := after; ; {
		rows, more, err := get(columns[sorted].By, rising, next, limit)
		if err != nil {
			return nil, err
		}
		l.Rows = append(l.Rows, rows...)
		if next = more; next == "" || !exported || len(l.Rows) >= mostExported {
			if next != "" {
				l.Next = v.with("after", next)
			}
			break
		}
	}
	l.found, l.Found, l.All = l.Rows, len(l.Rows), len(l.Rows)
	l.Note = fmt.Sprintf("%d on this page. Sorts by %s; the other columns do not sort: filter by them.", l.Found, sorts(columns))
	if after != "" {
		l.First = v.with("after", "")
	}
	for i, c := range columns {
		h := head{Key: c.Key, Title: c.Title, Number: c.Number}
		switch {
		case i == sorted && rising:
			h.Sort, h.Link = "ascending", v.with("sort", c.Key, "rising", "", "after", "")
		case i == sorted:
			h.Sort, h.Link = "descending", v.with("sort", c.Key, "rising", "1", "after", "")
		case c.By != "":
			h.Link = v.with("sort", c.Key, "rising", "", "after", "")
		}
		l.Heads = append(l.Heads, h)
	}
	l.CSV, l.JSON = v.with("as", "csv", "after", ""), v.with("as", "json", "after", "")
	return l, nil
}

// sorts names the columns that sort.
func sorts[T any](columns []column[T]) string {
	var names []string
	for _, c := range columns {
		if c.By != "" {
			names = append(names, strings.ToLower(c.Title))
		}
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
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
