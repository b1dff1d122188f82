package egress

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/gateway"
)

// Make calls an operation without a client: it goes the way of every call from the
// beginning, in the name of those whom resume names. args are as policy sees them:
// path, query, header and body. It fails if they make no request.
func (f *Front) Make(ctx context.Context, w http.ResponseWriter, resume *gateway.Resumed, connection, tool string, args []byte) error {
	c, ok := f.o.Registry.Connection(connection)
	if !ok {
		return errConnection
	}
	set := f.known.of(f.o.Registry, c)
	for o, k := range set.known {
		if k.tool.Name != tool {
			continue
		}
		r, err := request(ctx, o, connection, args)
		if err != nil {
			return err
		}
		// /users/{id} with the id "me" may be another operation, /users/me.
		path := strings.TrimPrefix(r.URL.EscapedPath(), Prefix+connection)
		if found, _, _, err := set.match(r.Method, path); err != nil || found != k {
			return errArgument.Say("the arguments make a path that is not one of the operation %.60q", tool)
		}
		f.Resume(w, r, resume)
		return nil
	}
	return errArgument.Say("the connection has no operation %.60q", tool)
}

// request makes the request that an operation's arguments say. What the operation
// does not declare is refused: policy would not see it.
func request(ctx context.Context, o *operation.Operation, connection string, args []byte) (*http.Request, error) {
	var in struct {
		Path   map[string]jsontext.Value `json:"path"`
		Query  map[string]jsontext.Value `json:"query"`
		Header map[string]jsontext.Value `json:"header"`
		Body   jsontext.Value            `json:"body"`
	}
	if err := json.Unmarshal(args, &in, json.RejectUnknownMembers(true)); err != nil {
		return nil, errArgument.Say("the arguments of an operation are path, query, header and body").With(err)
	}
	path, err := expand(o.Path, in.Path)
	if err != nil {
		return nil, err
	}
	target := Prefix + connection + path
	query, err := urlEncoded(in.Query)
	if err != nil {
		return nil, err
	}
	if query != "" {
		target += "?" + query
	}
	body, media, err := bodyOf(o, in.Body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, o.Method, target, bytes.NewReader(body))
	if err != nil {
		return nil, errArgument.Say("the arguments make no request").With(err)
	}
	r.Header.Set("User-Agent", "countersign undo")
	r.Header.Set("Accept", "application/json, */*;q=0.5")
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	return r, addHeaders(r.Header, o, in.Header)
}

// addHeaders adds the headers that an operation declares, by the names that it
// declares: two that differ in case would be one.
func addHeaders(h http.Header, o *operation.Operation, values map[string]jsontext.Value) error {
	for name, v := range values {
		if !slices.ContainsFunc(o.Parameters, func(p operation.Parameter) bool { return p.In == operation.InHeader && p.Name == name }) {
			return errArgument.Say("the operation has no header %.60q", name)
		}
		texts, err := plain(name, v)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(texts, func(t string) bool { return strings.ContainsFunc(t, unicode.IsControl) }) {
			return errArgument.Say("the header %.60q holds a control character", name)
		}
		h[http.CanonicalHeaderKey(name)] = texts
	}
	return nil
}

// expand puts values into a template of a path: {name} one segment, {+name} several.
func expand(template string, values map[string]jsontext.Value) (string, error) {
	var out strings.Builder
	used := 0
	for rest := template; ; used++ {
		before, after, found := strings.Cut(rest, "{")
		out.WriteString(before)
		switch {
		case !found && used < len(values):
			return "", errArgument.Say("the path %.80q has no place for all that is given for it", template)
		case !found:
			return out.String(), nil
		}
		name, tail, _ := strings.Cut(after, "}")
		rest = tail
		name, several := strings.CutPrefix(name, "+")
		texts, err := plain(name, values[name])
		if err != nil {
			return "", err
		}
		if len(texts) != 1 || texts[0] == "" {
			return "", errArgument.Say("the parameter %.60q of the path is missing", name)
		}
		segments := []string{texts[0]}
		if several {
			segments = strings.Split(texts[0], "/")
		}
		for i, s := range segments {
			if s == "." || s == ".." || s == "" {
				return "", errArgument.Say("the parameter %.60q of the path holds a segment that leads elsewhere", name)
			}
			if i > 0 {
				out.WriteByte('/')
			}
			out.WriteString(url.PathEscape(s))
		}
	}
}

// urlEncoded writes values as a query, or as a form.
func urlEncoded(values map[string]jsontext.Value) (string, error) {
	out := url.Values{}
	for name, v := range values {
		texts, err := plain(name, v)
		if err != nil {
			return "", err
		}
		out[name] = texts
	}
	return out.Encode(), nil
}

// plain returns a value, or several, as texts.
func plain(name string, v jsontext.Value) ([]string, error) {
	switch v.Kind() {
	case '"':
		var s string
		err := json.Unmarshal(v, &s)
		return []string{s}, err
	case '0', 't', 'f':
		return []string{string(v)}, nil
	case '[':
		var list []jsontext.Value
		var out []string
		if err := json.Unmarshal(v, &list); err != nil {
			return nil, err
		}
		for _, one := range list {
			if one.Kind() == '[' {
				return nil, errArgument.Say("the parameter %.60q is no plain value", name)
			}
			texts, err := plain(name, one)
			if err != nil {
				return nil, err
			}
			out = append(out, texts...)
		}
		return out, nil
	}
	return nil, errArgument.Say("the parameter %.60q is no plain value", name)
}

// bodyOf writes the body in a form that the operation takes.
func bodyOf(o *operation.Operation, v jsontext.Value) (body []byte, media string, err error) {
	if len(v) == 0 {
		return nil, "", nil
	}
	takes := func(media string) bool {
		return o.Body != nil && (slices.Contains(o.Body.Types, media) || slices.Contains(o.Body.Types, "*/*"))
	}
	switch {
	case takes(operation.JSON):
		return v, operation.JSON, nil
	case takes(operation.Form):
		var fields map[string]jsontext.Value
		if err := json.Unmarshal(v, &fields); err != nil || fields == nil {
			return nil, "", errArgument.Say("the fields of a form are an object")
		}
		text, err := urlEncoded(fields)
		return []byte(text), operation.Form, err
	}
	return nil, "", errArgument.Say("the operation takes no body that could be made of arguments")
}
