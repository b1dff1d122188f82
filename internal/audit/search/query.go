package search

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// ErrQuery says what is wrong with a query and at which character.
var ErrQuery = fault.New(fault.Invalid, "bad_query", "the query cannot be read")

// Limits of a query.
const (
	maxQuery = 4096 // bytes
	maxParts = 64
)

// Query is a parsed search: all of its parts must hold.
type Query struct {
	filters      []filter
	terms        []term
	since, until time.Time
}

// filter holds if a field has one of the values, or with not if it has none.
type filter struct {
	field  *field
	values []string // * stands for any text
	not    bool
}

// term holds if the words follow each other somewhere in an event, or in its
// payloads.
type term struct {
	words       []string
	prefix, not bool // prefix: the last word is only the beginning of one, and of events alone
}

// Syntax describes the query language, for people.
const Syntax = `field:value  field:a,b  field:"with space"  field:begin*  -field:value  word  "some words"  begin*  -word  since:2h  until:2026-01-31
words are looked for in events and payloads; begin* in events alone, because of payloads the index knows whole words only
fields: type decision status agent owner team stage connection tool effect run call actor object credential remote model policy grant label touches`

// Parse reads a query. Durations in since and until (90s, 15m, 2h, 7d, 2w)
// count back from now; dates are 2006-01-02 or RFC 3339, in UTC if they do not
// say otherwise. The error is an ErrQuery that names the column.
func Parse(s string, now time.Time) (Query, error) {
	p := parser{s: s, now: now}
	if len(s) > maxQuery {
		return Query{}, ErrQuery.Say("the query is longer than %d bytes", maxQuery)
	}
	if !utf8.ValidString(s) {
		return Query{}, ErrQuery.Say("the query is not UTF-8")
	}
	var q Query
	for n := 0; ; n++ {
		p.skip()
		if p.i == len(p.s) {
			return q, nil
		}
		if n == maxParts {
			return Query{}, p.fail(p.i, "more than %d parts", maxParts)
		}
		if err := p.part(&q); err != nil {
			return Query{}, err
		}
	}
}

type parser struct {
	s   string
	i   int
	now time.Time
}

func (p *parser) fail(at int, format string, args ...any) error {
	return ErrQuery.Say("query, column %d: "+format, append([]any{utf8.RuneCountInString(p.s[:at]) + 1}, args...)...)
}

func (p *parser) skip() {
	for p.i < len(p.s) {
		r, n := utf8.DecodeRuneInString(p.s[p.i:])
		if !unicode.IsSpace(r) {
			return
		}
		p.i += n
	}
}

// part reads one part: a filter, a time or free text.
func (p *parser) part(q *Query) error {
	start, not := p.i, false
	if p.s[p.i] == '-' {
		not = true
		p.i++
	}
	if p.i < len(p.s) && p.s[p.i] != '"' {
		if colon := strings.IndexFunc(p.s[p.i:], func(r rune) bool { return r == ':' || r == '"' || unicode.IsSpace(r) }); colon >= 0 && p.s[p.i+colon] == ':' {
			name := p.s[p.i : p.i+colon]
			at := p.i
			p.i += colon + 1
			return p.named(q, name, at, not)
		}
	}
	at := p.i
	v, quoted, err := p.value(false)
	if err != nil {
		return err
	}
	t := term{words: words(v), not: not, prefix: !quoted && strings.HasSuffix(v, "*")}
	if len(t.words) == 0 {
		if not || quoted {
			return p.fail(start, "there is no word to look for")
		}
		return p.fail(at, "%q holds no letter or digit to look for", v)
	}
	q.terms = append(q.terms, t)
	return nil
}

func (p *parser) named(q *Query, name string, at int, not bool) error {
	if name == "since" || name == "until" {
		return p.time(q, name, at, not)
	}
	f := fieldNamed(name)
	if f == nil {
		return p.fail(at, "there is no field %q; fields are %s, since and until. Put text that contains a colon into quotes", name, fieldNames())
	}
	fl := filter{field: f, not: not}
	for {
		v, _, err := p.value(true)
		if err != nil {
			return err
		}
		if v == "" {
			return p.fail(p.i, "%s: needs a value", name)
		}
		if name == "tool" && !strings.Contains(v, "/") {
			v = "*/" + v
		}
		fl.values = append(fl.values, v)
		if p.i == len(p.s) || p.s[p.i] != ',' {
			break
		}
		p.i++
	}
	q.filters = append(q.filters, fl)
	return nil
}

func fieldNames() string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return strings.Join(names, ", ")
}

// value reads a quoted string or everything up to a space, or with list a comma.
func (p *parser) value(list bool) (v string, quoted bool, err error) {
	if p.i < len(p.s) && p.s[p.i] == '"' {
		start := p.i
		end := strings.IndexByte(p.s[p.i+1:], '"')
		if end < 0 {
			return "", true, p.fail(start, "the quote is not closed")
		}
		v = p.s[p.i+1 : p.i+1+end]
		p.i += end + 2
		if p.i < len(p.s) && !unicode.IsSpace(rune(p.s[p.i])) && (!list || p.s[p.i] != ',') {
			return "", true, p.fail(p.i, "a space is missing after the quote")
		}
		return v, true, nil
	}
	end := strings.IndexFunc(p.s[p.i:], func(r rune) bool { return unicode.IsSpace(r) || (list && r == ',') })
	if end < 0 {
		end = len(p.s) - p.i
	}
	v = p.s[p.i : p.i+end]
	p.i += end
	return v, false, nil
}

func (p *parser) time(q *Query, name string, at int, not bool) error {
	if not {
		return p.fail(at, "%s cannot be negated", name)
	}
	start := p.i
	v, _, err := p.value(false)
	if err != nil {
		return err
	}
	t, ok := parseTime(v, p.now)
	if !ok {
		return p.fail(start, "%s: needs a duration such as 15m, 2h or 7d, or a date such as 2026-01-31 or 2026-01-31T08:00:00Z", name)
	}
	to := &q.since
	if name == "until" {
		to = &q.until
	}
	if !to.IsZero() {
		return p.fail(at, "%s is given twice", name)
	}
	*to = t
	return nil
}

func parseTime(v string, now time.Time) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, v); err == nil {
			return t, t.Year() >= 1970
		}
	}
	days := map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour}
	if len(v) > 1 && days[v[len(v)-1:]] > 0 {
		n, err := strconv.ParseUint(v[:len(v)-1], 10, 12)
		return now.Add(-time.Duration(n) * days[v[len(v)-1:]]), err == nil
	}
	d, err := time.ParseDuration(v)
	return now.Add(-d), err == nil && d >= 0
}

// HasText reports whether q needs the words of events and payloads.
func (q Query) HasText() bool { return len(q.terms) > 0 }

// Match reports whether q selects r. Free text is looked for in r's payloads
// as far as they are loaded.
func (q Query) Match(r *audit.Record) bool {
	at := r.Event.Time
	if (!q.since.IsZero() && at.Before(q.since)) || (!q.until.IsZero() && !at.Before(q.until)) {
		return false
	}
	for _, f := range q.filters {
		if f.holds(&r.Event) == f.not {
			return false
		}
	}
	if len(q.terms) == 0 {
		return true
	}
	event, payloads := " "+eventText(r)+" ", " "+payloadText(r)+" "
	for _, t := range q.terms {
		look := " " + strings.Join(t.words, " ")
		found := false
		if t.prefix {
			found = strings.Contains(event, look)
		} else {
			found = strings.Contains(event, look+" ") || strings.Contains(payloads, look+" ")
		}
		if found == t.not {
			return false
		}
	}
	return true
}

func (f filter) holds(ev *audit.Event) bool {
	for _, have := range f.field.of(ev) {
		if slices.ContainsFunc(f.values, func(pattern string) bool { return glob(pattern, have) }) {
			return true
		}
	}
	return false
}

// glob reports whether s matches pattern, in which * stands for any text.
// Without a * upper and lower case differ.
func glob(pattern, s string) bool {
	if !strings.Contains(pattern, "*") {
		return pattern == s
	}
	parts := strings.Split(strings.ToLower(pattern), "*")
	s = strings.ToLower(s)
	last := len(parts) - 1
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, part := range parts[1:last] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, parts[last])
}
