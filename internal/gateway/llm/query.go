package llm

import (
	"encoding/json/jsontext"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// Limits on a request's query.
const (
	maxQuery  = 4 << 10
	maxParams = 64
)

var errQuery = fault.New(fault.Invalid, "bad_query", "the URL's query could not be understood")

// readQuery returns the parameters of a raw query as "name=value", decoded, in
// the order they came: what policy reads of them. Which parameters a provider
// knows is not ours to say, so unknown ones pass, but not one that two readers
// could read in two ways, and never the agent's own credential.
func readQuery(raw, credential string) ([]string, error) {
	switch {
	case raw == "":
		return nil, nil
	case len(raw) > maxQuery:
		return nil, errQuery.Say("the URL's query is over the limit of %d bytes", maxQuery)
	case strings.Contains(raw, ";"): // a separator to some
		return nil, errQuery.Say("the URL's query holds a semicolon; write %%3B")
	case strings.Count(raw, "&") >= maxParams:
		return nil, errQuery.Say("the URL's query has more than %d parameters", maxParams)
	}
	var params []string
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, errQuery.Say("the URL's query is not properly escaped")
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return nil, errQuery.Say("the URL's query is not properly escaped")
		}
		param := name + "=" + value
		switch {
		case name == "" || strings.Contains(name, "="):
			return nil, errQuery.Say("a parameter of the URL's query has no name, or one with an equals sign in it")
		case !utf8.ValidString(param) || strings.ContainsFunc(param, unicode.IsControl):
			return nil, errQuery.Say("a parameter of the URL's query is not plain UTF-8 text")
		case credential != "" && strings.Contains(param, credential):
			return nil, errQuery.Say("the URL's query holds the agent's credential; send it in a header alone")
		}
		params = append(params, param)
	}
	return params, nil
}

// withQuery returns args, an object, with the member that shows policy and the
// log the request's query.
func withQuery(args jsontext.Value, params []string) jsontext.Value {
	if len(params) == 0 {
		return args
	}
	out := append(make([]byte, 0, len(args)+64), args[:len(args)-1]...)
	if len(out) > 1 {
		out = append(out, ',')
	}
	out = append(out, `"query":[`...)
	for i, p := range params {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendString(out, p)
	}
	return append(out, "]}"...)
}
