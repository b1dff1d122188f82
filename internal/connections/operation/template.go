package operation

import (
	"fmt"
	"net/url"
	"strings"
)

// template is a path with places for parameters.
type template struct {
	segments []segment
	names    []string // of the parameters, in the order of the path
}

// segment is a part of a path between slashes: a fixed text, or a parameter
// with fixed text around it, or everything to the end.
type segment struct {
	fixed          string // as it is sent
	parameter      bool
	prefix, suffix string
	rest           bool // {+name}: this segment and all that follow
}

// parseTemplate reads a path template: "{name}" is a parameter within a
// segment, "{+name}" as the last segment is all that is left of the path
// (RFC 6570 writes reserved expansion like that).
func parseTemplate(path string) (template, error) {
	var t template
	if !strings.HasPrefix(path, "/") || len(path) > MaxPath || strings.ContainsAny(path, "?#\\") {
		return t, fmt.Errorf("the path %.80q must begin with a slash and have no query", path)
	}
	parts := strings.Split(path[1:], "/")
	if len(parts) > maxSegments {
		return t, fmt.Errorf("the path has more than %d segments", maxSegments)
	}
	for i, part := range parts {
		s, name, err := parseSegment(part)
		switch {
		case err != nil:
			return t, fmt.Errorf("the path %.80q: %w", path, err)
		case s.rest && i != len(parts)-1:
			return t, fmt.Errorf("the path %.80q: {+%s} can only be its end", path, name)
		case part == "" && i != len(parts)-1:
			return t, fmt.Errorf("the path %.80q has an empty segment", path)
		case name != "":
			for _, other := range t.names {
				if other == name {
					return t, fmt.Errorf("the path %.80q names %s twice", path, name)
				}
			}
			t.names = append(t.names, name)
		}
		t.segments = append(t.segments, s)
	}
	return t, nil
}

func parseSegment(part string) (segment, string, error) {
	before, rest, found := strings.Cut(part, "{")
	if !found {
		plain, err := url.PathUnescape(part)
		if err != nil || plain == "." || plain == ".." || strings.ContainsAny(plain, "}/\\") {
			return segment{}, "", fmt.Errorf("the segment %.40q cannot be told from others", part)
		}
		return segment{fixed: part}, "", nil
	}
	name, after, closed := strings.Cut(rest, "}")
	if !closed || strings.ContainsAny(after, "{}") || strings.ContainsAny(before, "}%") || strings.Contains(after, "%") {
		return segment{}, "", fmt.Errorf("the segment %.40q may hold one {parameter}", part)
	}
	s := segment{parameter: true, prefix: before, suffix: after}
	if name, s.rest = strings.CutPrefix(name, "+"); s.rest && (before != "" || after != "") {
		return segment{}, "", fmt.Errorf("the segment %.40q: {+%s} must be all of it", part, name)
	}
	if name == "" || strings.ContainsAny(name, " +*?&,;/") {
		return segment{}, "", fmt.Errorf("the segment %.40q names no parameter", part)
	}
	return s, name, nil
}
