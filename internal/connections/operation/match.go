package operation

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Errors of Match.
var (
	// ErrForm refuses a path that two readers could read in two ways.
	ErrForm = errors.New("the path can be read in two ways: it has an escape that is not needed, an escaped slash where none can be, a double slash, a dot segment, a semicolon, or a fixed name in another case")
	// ErrNone says that no operation has this path.
	ErrNone = errors.New("no operation has this path")
	// ErrMethod says that operations have this path, but none this method.
	ErrMethod = errors.New("no operation of this path has this method")
	// ErrTwo says that two operations could be meant.
	ErrTwo = errors.New("two operations have this path and method, so neither can be meant")
)

// maxRequestPath bounds a request's path, in bytes.
const maxRequestPath = 8 << 10

// Matcher finds the operation that a request is. It does not change and is safe
// for concurrent use.
type Matcher struct{ root *node }

// node is what may follow a path so far.
type node struct {
	fixed     map[string]*node  // by the segment as it is sent
	folded    map[string]string // a fixed segment by what it is without case and escapes
	around    []around          // parameters with fixed text around them, the longest text first
	parameter *node
	rest      *leaf
	here      *leaf // operations whose path ends here
}

type around struct {
	prefix, suffix string
	next           *node
}

// leaf is the operations of one path, by method.
type leaf struct{ byMethod map[string]entry }

type entry struct {
	op    *Operation
	names []string // of the parameters, in the order of the path
	twice bool
}

// NewMatcher returns a matcher of operations. Those whose path cannot be read
// are left out: they match nothing.
func NewMatcher(ops []*Operation) *Matcher {
	m := &Matcher{root: &node{}}
	for _, o := range ops {
		if t, err := parseTemplate(o.Path); err == nil {
			m.root.add(t.segments, o, t.names)
		}
	}
	return m
}

func (n *node) add(segments []segment, o *Operation, names []string) {
	if len(segments) == 0 {
		n.here = n.here.with(o, names)
		return
	}
	s, rest := segments[0], segments[1:]
	switch {
	case s.rest:
		n.rest = n.rest.with(o, names)
	case !s.parameter:
		if n.fixed == nil {
			n.fixed, n.folded = map[string]*node{}, map[string]string{}
		}
		if n.fixed[s.fixed] == nil {
			n.fixed[s.fixed] = &node{}
			n.folded[fold(s.fixed)] = s.fixed
		}
		n.fixed[s.fixed].add(rest, o, names)
	case s.prefix == "" && s.suffix == "":
		if n.parameter == nil {
			n.parameter = &node{}
		}
		n.parameter.add(rest, o, names)
	default:
		i := slices.IndexFunc(n.around, func(a around) bool { return a.prefix == s.prefix && a.suffix == s.suffix })
		if i < 0 {
			i = len(n.around)
			n.around = append(n.around, around{s.prefix, s.suffix, &node{}})
		}
		n.around[i].next.add(rest, o, names)
		slices.SortStableFunc(n.around, func(a, b around) int { return len(b.prefix) + len(b.suffix) - len(a.prefix) - len(a.suffix) })
	}
}

func (l *leaf) with(o *Operation, names []string) *leaf {
	if l == nil {
		l = &leaf{byMethod: map[string]entry{}}
	}
	_, twice := l.byMethod[o.Method]
	l.byMethod[o.Method] = entry{op: o, names: names, twice: twice}
	return l
}

// Argument is a parameter of the path with its value, decoded.
type Argument struct{ Name, Value string }

// Match returns the operation that a request with this method and escaped path
// is, and the parameters of its path. A HEAD without an operation of its own is
// that of GET (RFC 9110, 9.3.2). With ErrMethod it returns which methods the path takes.
//
// Slashes that are escaped are slashes where all that is left of a path is a
// parameter; the path is then to be sent as Slashes writes it.
func (m *Matcher) Match(method, path string) (*Operation, []Argument, []string, error) {
	first := escapedSlash(path)
	if first < 0 {
		return m.match(method, path)
	}
	op, args, _, err := m.match(method, Slashes(path))
	if before, ok := op.fixedSegments(); err != nil || !ok || strings.Count(path[:first], "/") <= before {
		return nil, nil, nil, ErrForm // a reader who unescapes it takes it for another path
	}
	return op, args, nil, nil
}

// escapedSlash returns where the first escaped slash of a path stands, -1 if there is none.
func escapedSlash(path string) int {
	upper, lower := strings.Index(path, "%2F"), strings.Index(path, "%2f")
	if upper < 0 || lower >= 0 && lower < upper {
		return lower
	}
	return upper
}

// Slashes returns a path with its escaped slashes as slashes.
func Slashes(path string) string {
	return strings.ReplaceAll(strings.ReplaceAll(path, "%2F", "/"), "%2f", "/")
}

// fixedSegments returns how many segments stand before the parameter that is all
// that is left of o's path; false if there is none.
func (o *Operation) fixedSegments() (int, bool) {
	if o == nil {
		return 0, false
	}
	t, err := parseTemplate(o.Path)
	if err != nil || !t.segments[len(t.segments)-1].rest {
		return 0, false
	}
	return len(t.segments) - 1, true
}

func (m *Matcher) match(method, path string) (*Operation, []Argument, []string, error) {
	segments, err := split(path)
	if err != nil {
		return nil, nil, nil, err
	}
	s := search{segments: segments, method: method}
	found, values := s.find(m.root, 0, nil)
	switch {
	case s.unclear:
		return nil, nil, nil, ErrForm
	case found.op == nil && len(s.allow) > 0:
		slices.Sort(s.allow)
		return nil, nil, slices.Compact(s.allow), ErrMethod
	case found.op == nil:
		return nil, nil, nil, ErrNone
	case found.twice:
		return nil, nil, nil, ErrTwo
	}
	args := make([]Argument, len(values))
	for i, v := range values {
		args[i] = Argument{found.names[i], v}
	}
	return found.op, args, nil, nil
}

// part is a segment of a request's path, as sent and decoded.
type part struct{ sent, plain string }

// split reads a path into segments, each of which can be read in one way only.
func split(path string) ([]part, error) {
	if !strings.HasPrefix(path, "/") || len(path) > maxRequestPath || strings.Count(path, "/") > maxSegments {
		return nil, ErrForm
	}
	sent := strings.Split(path[1:], "/")
	parts := make([]part, len(sent))
	for i, s := range sent {
		plain, err := url.PathUnescape(s)
		switch {
		case err != nil, s == "" && i != len(sent)-1, plain == "." || plain == "..", needless(s):
			return nil, ErrForm
		case strings.ContainsAny(plain, "/\\%") || strings.Contains(s, ";") || !utf8.ValidString(plain) || strings.ContainsFunc(plain, unicode.IsControl):
			return nil, ErrForm
		}
		parts[i] = part{s, plain}
	}
	return parts, nil
}

// needless reports whether a segment escapes a character that no path needs to
// escape (RFC 3986, 2.3): readers disagree about whether it is then the same.
func needless(s string) bool {
	for i := strings.IndexByte(s, '%'); i >= 0 && i+2 < len(s); {
		c := unhex(s[i+1])<<4 | unhex(s[i+2])
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			return true
		}
		next := strings.IndexByte(s[i+1:], '%')
		if next < 0 {
			return false
		}
		i += 1 + next
	}
	return false
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0
}

// search walks the tree. A node lies at one depth, so each is looked at once at most.
type search struct {
	segments []part
	method   string
	allow    []string
	unclear  bool
}

// find prefers what is fixed to what is a parameter, segment by segment from
// the left (OpenAPI 3.1, Paths Object), and goes back when that leads nowhere.
func (s *search) find(n *node, at int, values []string) (entry, []string) {
	if at == len(s.segments) {
		return s.take(n.here, values)
	}
	seg := s.segments[at]
	if next := n.fixed[seg.sent]; next != nil {
		if e, v := s.find(next, at+1, values); e.op != nil {
			return e, v
		}
	} else if _, other := n.folded[fold(seg.sent)]; other {
		s.unclear = true // a fixed name, but not as it is written
		return entry{}, nil
	}
	for _, a := range n.around {
		value, ok := strings.CutPrefix(seg.plain, a.prefix)
		if value, ok = cutSuffix(value, a.suffix, ok); ok && value != "" {
			if e, v := s.find(a.next, at+1, append(values, value)); e.op != nil {
				return e, v
			}
		}
	}
	if n.parameter != nil && seg.plain != "" {
		if e, v := s.find(n.parameter, at+1, append(values, seg.plain)); e.op != nil {
			return e, v
		}
	}
	if n.rest != nil && seg.plain != "" {
		all := make([]string, 0, len(s.segments)-at)
		for _, p := range s.segments[at:] {
			all = append(all, p.plain)
		}
		return s.take(n.rest, append(values, strings.Join(all, "/")))
	}
	return entry{}, nil
}

func cutSuffix(s, suffix string, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	return strings.CutSuffix(s, suffix)
}

func (s *search) take(l *leaf, values []string) (entry, []string) {
	if l == nil {
		return entry{}, nil
	}
	if e, ok := l.byMethod[s.method]; ok {
		return e, values
	}
	if e, ok := l.byMethod[get]; ok && s.method == head {
		return e, values
	}
	for method := range l.byMethod {
		s.allow = append(s.allow, method)
	}
	return entry{}, nil
}

// fold returns the same for segments that readers who ignore case or escapes
// take for one.
func fold(segment string) string {
	if plain, err := url.PathUnescape(segment); err == nil {
		segment = plain
	}
	return strings.ToLower(strings.ToUpper(segment))
}
