package egress

import (
	"encoding/json/jsontext"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/fault"
)

// Limits on a request's query and the fields of a form.
const (
	maxQuery  = 16 << 10
	maxParams = 1000
)

// pair is a name and a value, decoded.
type pair struct{ name, value string }

// pairs reads name=value&… as HTML forms write it. What two readers could read
// in two ways is refused: it says err.
func pairs(raw string, err *fault.Error) ([]pair, error) {
	switch {
	case raw == "":
		return nil, nil
	case strings.Contains(raw, ";"): // a separator to some
		return nil, err.Say("a parameter holds a semicolon; write %%3B")
	case strings.Count(raw, "&") >= maxParams:
		return nil, err.Say("there are more than %d parameters", maxParams)
	}
	var out []pair
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		n, nerr := url.QueryUnescape(name)
		v, verr := url.QueryUnescape(value)
		switch {
		case nerr != nil || verr != nil:
			return nil, err.Say("a parameter is not properly escaped")
		case n == "":
			return nil, err.Say("a parameter has no name")
		case !utf8.ValidString(n) || !utf8.ValidString(v) || strings.ContainsFunc(n, unicode.IsControl) || strings.ContainsRune(v, 0):
			return nil, err.Say("a parameter is not plain UTF-8 text")
		}
		out = append(out, pair{n, v})
	}
	return out, nil
}

// query reads the parameters of the URL's query. One that the operation does
// not name is refused: policy could not see it.
func (x *exchange) query(args *object) error {
	raw := x.r.URL.RawQuery
	if len(raw) > maxQuery {
		return errArgument.Say("the URL's query is over the limit of %d bytes", maxQuery)
	}
	list, err := pairs(raw, errArgument)
	if err != nil {
		return err
	}
	if secret, err := x.credential(); err == nil && secret != "" {
		for _, p := range list {
			if strings.Contains(p.value, secret) {
				return errArgument.Say("the URL's query holds the agent's credential; send it in a header alone")
			}
		}
	}
	for _, p := range list {
		if _, ok := x.op.query[p.name]; !ok {
			return errArgument.Say("the operation has no parameter %.60q in its query", p.name)
		}
	}
	return values(args, "query", x.op.query, list, false)
}

// headers reads the headers that the operation declares.
func (x *exchange) headers(args *object) error {
	var list []pair
	declared := make(map[string]operation.Parameter, len(x.op.header))
	for _, p := range x.op.header {
		declared[p.Name] = p
		for _, v := range x.r.Header[http.CanonicalHeaderKey(p.Name)] {
			if !utf8.ValidString(v) {
				return errArgument.Say("the header %s is not UTF-8", p.Name)
			}
			list = append(list, pair{p.Name, v})
		}
	}
	return values(args, "header", declared, list, false)
}

// values writes pairs as an object under a name, each by its type. extra admits
// names that are not declared, as text.
func values(args *object, under string, declared map[string]operation.Parameter, list []pair, extra bool) error {
	var out object
	var names []string
	for _, p := range list {
		if slices.Contains(names, p.name) {
			continue
		}
		names = append(names, p.name)
		d, known := declared[p.name]
		if !known && !extra {
			return errArgument.Say("the operation has no parameter %.60q", p.name)
		}
		if !known {
			d = operation.Parameter{Name: p.name, Type: operation.String}
		}
		var all []string
		for _, q := range list {
			if q.name == p.name {
				all = append(all, q.value)
			}
		}
		v, err := value(d, all, known)
		if err != nil {
			return err
		}
		out.raw(p.name, v)
	}
	for name, d := range declared {
		if d.Required && !slices.Contains(names, name) {
			return errArgument.Say("the parameter %.60q is missing", name)
		}
	}
	if len(names) > 0 {
		args.raw(under, out.end())
	}
	return nil
}

// value turns the texts of one parameter into JSON. One that is there twice
// must be declared as several: readers disagree about which one counts.
func value(p operation.Parameter, all []string, declared bool) (jsontext.Value, error) {
	if p.Joined && len(all) == 1 {
		all = strings.Split(all[0], ",")
	}
	if !p.Many && (len(all) > 1) && declared {
		return nil, errArgument.Say("the parameter %.60q is there twice", p.Name)
	}
	if !p.Many && len(all) == 1 {
		return one(p, all[0])
	}
	out := []byte("[")
	for i, text := range all {
		v, err := one(p, text)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, v...)
	}
	return append(out, ']'), nil
}

// one turns a text into JSON by its type, which must be written plainly.
func one(p operation.Parameter, text string) (jsontext.Value, error) {
	switch p.Type {
	case operation.Boolean:
		if text == "true" || text == "false" {
			return jsontext.Value(text), nil
		}
		return nil, errArgument.Say("the parameter %.60q must be true or false", p.Name)
	case operation.Integer, operation.Number:
		v := jsontext.Value(text)
		if len(text) > 64 || v.Kind() != '0' || !v.IsValid() || strings.TrimSpace(text) != text || p.Type == operation.Integer && strings.ContainsAny(text, ".eE") {
			return nil, errArgument.Say("the parameter %.60q must be a plain %s", p.Name, p.Type)
		}
		return v, nil
	}
	return quote(text), nil
}

func quote(s string) jsontext.Value {
	b, err := jsontext.AppendQuote(nil, s)
	if err != nil { // not UTF-8, which was checked
		return jsontext.Value(`""`)
	}
	return b
}

// object is a JSON object that is being written.
type object struct{ b []byte }

func (o *object) raw(name string, v jsontext.Value) {
	if len(o.b) == 0 {
		o.b = append(o.b, '{')
	} else {
		o.b = append(o.b, ',')
	}
	o.b = append(append(append(o.b, quote(name)...), ':'), v...)
}

func (o *object) text(name, v string)         { o.raw(name, quote(v)) }
func (o *object) number(name string, n int64) { o.raw(name, strconv.AppendInt(nil, n, 10)) }

func (o *object) end() jsontext.Value {
	if len(o.b) == 0 {
		return jsontext.Value("{}")
	}
	return append(o.b, '}')
}

// pathArgs writes the parameters of the path.
func (x *exchange) pathArgs(args *object, list []operation.Argument) error {
	if len(list) == 0 {
		return nil
	}
	var out object
	for _, a := range list {
		p, ok := x.op.path[a.Name]
		if !ok {
			p = operation.Parameter{Name: a.Name, Type: operation.String}
		}
		texts := []string{a.Value}
		v, err := value(p, texts, true)
		if err != nil {
			return err
		}
		out.raw(a.Name, v)
	}
	args.raw("path", out.end())
	return nil
}
