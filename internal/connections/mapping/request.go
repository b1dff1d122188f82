package mapping

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Request is how a search API is asked. A value that is {{query}}, {{words}},
// {{limit}}, {{readers}}, {{users}}, {{groups}} or {{id}}, and nothing else, is
// replaced.
type Request struct {
	Method  string            `json:"method,omitzero" yaml:"method,omitempty" doc:"GET or POST (if empty)"`
	Path    string            `json:"path,omitzero" yaml:"path,omitempty" doc:"beneath the connection's URL, such as /search; a segment may be {{id}}"`
	Query   map[string]string `json:"query,omitempty" yaml:"query,omitempty" doc:"parameters of the URL"`
	Body    string            `json:"body,omitzero" yaml:"body,omitempty" doc:"JSON"`
	Results string            `json:"results,omitzero" yaml:"results,omitempty" doc:"path of the results in the answer, such as hits.*; empty: the answer itself"`
}

// Values are what is put into a request.
type Values map[string]any // string, int or []string

const (
	maxBody  = 16 << 10
	maxDepth = 32
)

// placeholder returns the name in {{name}}, if s is just that.
func placeholder(s string) (string, bool) {
	name, ok := strings.CutPrefix(s, "{{")
	if !ok {
		return "", false
	}
	name, ok = strings.CutSuffix(name, "}}")
	return strings.TrimSpace(name), ok
}

// texts returns every text of a request that may be a placeholder.
func (r *Request) texts() ([]string, error) {
	out := slices.Collect(strings.SplitSeq(strings.TrimPrefix(r.Path, "/"), "/"))
	out = append(out, slices.Sorted(maps.Values(r.Query))...)
	if r.Body == "" {
		return out, nil
	}
	var v any
	if err := json.Unmarshal([]byte(r.Body), &v); err != nil {
		return nil, err
	}
	err := leaves(v, 0, func(s string) { out = append(out, s) })
	return out, err
}

func leaves(v any, depth int, emit func(string)) error {
	if depth > maxDepth {
		return fmt.Errorf("is nested more than %d levels", maxDepth)
	}
	switch x := v.(type) {
	case string:
		emit(x)
	case []any:
		for _, e := range x {
			if err := leaves(e, depth+1, emit); err != nil {
				return err
			}
		}
	case map[string]any:
		for k, e := range x {
			if strings.Contains(k, "{{") {
				return fmt.Errorf("the name of a member cannot be replaced")
			}
			if err := leaves(e, depth+1, emit); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Request) uses(name string) bool {
	texts, err := r.texts()
	return err == nil && slices.ContainsFunc(texts, func(s string) bool { n, ok := placeholder(s); return ok && n == name })
}

func (r *Request) check(field string, known []string) error {
	switch {
	case r.Method != "" && r.Method != "GET" && r.Method != "POST":
		return wrong(field+".method", "%.20q is neither GET nor POST", r.Method)
	case !strings.HasPrefix(r.Path, "/") || len(r.Path) > maxName || strings.ContainsAny(r.Path, "?#\\%") || strings.Contains(r.Path, "//") || strings.Contains(r.Path, ".."):
		return wrong(field+".path", "must be a plain path such as /search")
	case len(r.Body) > maxBody:
		return wrong(field+".body", "has over %d bytes", maxBody)
	case r.Body != "" && r.Method == "GET":
		return wrong(field+".body", "a GET has no body")
	case r.Results != "" && checkPath(r.Results) != nil:
		return wrong(field+".results", "%v", checkPath(r.Results))
	}
	texts, err := r.texts()
	if err != nil {
		return wrong(field+".body", "is not JSON that can be used: %v", err)
	}
	for _, s := range texts {
		if !strings.Contains(s, "{{") {
			continue
		}
		if name, ok := placeholder(s); !ok || !slices.Contains(known, name) {
			return wrong(field, "%.60q must be just one of {{%s}}: what an agent asks for is never part of a longer text", s, strings.Join(known, "}}, {{"))
		}
	}
	return nil
}

// Made is a request with its values in it.
type Made struct{ Method, Path, Query, Body string }

// Make puts values into a request.
func (r *Request) Make(v Values) (Made, error) {
	m := Made{Method: r.Method}
	if m.Method == "" {
		m.Method = "POST"
	}
	segments := strings.Split(r.Path, "/")
	for i, s := range segments {
		if name, ok := placeholder(s); ok {
			segments[i] = url.PathEscape(fmt.Sprint(v[name]))
		}
	}
	m.Path = strings.Join(segments, "/")
	query := url.Values{}
	for _, k := range slices.Sorted(maps.Keys(r.Query)) {
		name, ok := placeholder(r.Query[k])
		list, many := v[name].([]string)
		switch {
		case !ok:
			query.Add(k, r.Query[k])
		case many:
			for _, s := range list {
				query.Add(k, s)
			}
		default:
			query.Add(k, fmt.Sprint(v[name]))
		}
	}
	m.Query = query.Encode()
	if r.Body == "" {
		return m, nil
	}
	var body any
	if err := json.Unmarshal([]byte(r.Body), &body); err != nil {
		return m, err
	}
	b, err := json.Marshal(put(body, v), json.Deterministic(true), jsontext.EscapeForHTML(false))
	m.Body = string(b)
	return m, err
}

func put(v any, values Values) any {
	switch x := v.(type) {
	case string:
		if name, ok := placeholder(x); ok {
			return values[name]
		}
	case []any:
		for i := range x {
			x[i] = put(x[i], values)
		}
	case map[string]any:
		for k := range x {
			x[k] = put(x[k], values)
		}
	}
	return v
}
