package operation

import (
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
)

// Parse reads an operation as a person lists it:
//
//	METHOD PATH[?PARAMETER&…] [header(PARAMETER, …)] [json(FIELD, …) | form(FIELD, …) | multipart(FIELD, …) | any | websocket [json(FIELD, …)]]
//
// A parameter or field is NAME or NAME:TYPE, where TYPE is string (the
// default), integer, number or boolean, and one that may be there several times
// ends in []; a "!" after it says that it must be there. "json" without fields
// takes any JSON, of which policy then sees nothing; "any" takes anything. After
// "websocket" the fields are those of each message that is sent.
//
//	GET /repos/{repo}/pulls?state&page:integer
//	POST /deployments json(ref!, environment!, replicas:integer)
func Parse(name, line string) (*Operation, error) {
	fields := words(line)
	if len(fields) < 2 {
		return nil, fmt.Errorf("write METHOD PATH, such as GET /pets/{id}, not %.80q", line)
	}
	o := &Operation{Name: name, Source: Listed, Line: strings.Join(fields, " "), Method: fields[0]}
	path, query, hasQuery := strings.Cut(fields[1], "?")
	o.Path = path
	if hasQuery {
		for p := range strings.SplitSeq(query, "&") {
			if err := o.parameter(InQuery, p); err != nil {
				return nil, err
			}
		}
	}
	for _, w := range fields[2:] {
		if err := o.word(w); err != nil {
			return nil, err
		}
	}
	return o, o.Finish()
}

// words splits a line at spaces outside parentheses.
func words(line string) []string {
	var out []string
	depth, start := 0, -1
	for i, c := range line {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ' ' && depth == 0:
			if start >= 0 {
				out = append(out, line[start:i])
			}
			start = -1
			continue
		}
		if start < 0 {
			start = i
		}
	}
	if start >= 0 {
		out = append(out, line[start:])
	}
	return out
}

var bodies = map[string]string{"json": JSON, "form": Form, "multipart": Multipart, "any": "*/*"}

func (o *Operation) word(w string) error {
	kind, list, parens := strings.Cut(w, "(")
	if parens {
		if !strings.HasSuffix(list, ")") {
			return fmt.Errorf("%.40q has no closing parenthesis", w)
		}
		list = list[:len(list)-1]
	}
	media, isBody := bodies[kind]
	switch {
	case kind == "websocket" && !parens:
		o.WebSocket = true
		return nil
	case kind == InHeader && parens:
		for p := range strings.SplitSeq(list, ",") {
			if err := o.parameter(InHeader, p); err != nil {
				return err
			}
		}
		return nil
	case !isBody:
		return fmt.Errorf("%.40q is not header(…), json(…), form(…), multipart(…), any or websocket", w)
	case o.Body != nil:
		return fmt.Errorf("an operation has one body, not %.40q too", w)
	}
	o.Body = &Body{Types: []string{media}}
	return o.fields(list)
}

// fields reads what a body holds.
func (o *Operation) fields(list string) error {
	if strings.TrimSpace(list) == "" {
		return nil
	}
	props, required := map[string]any{}, []string{}
	for f := range strings.SplitSeq(list, ",") {
		p, err := parseParameter(f)
		if err != nil {
			return err
		}
		if _, twice := props[p.Name]; twice {
			return fmt.Errorf("the field %q is there twice", p.Name)
		}
		props[p.Name] = p.schema()
		if p.Required {
			required = append(required, p.Name)
		}
	}
	o.Body.Required = len(required) > 0
	schema, err := json.Marshal(map[string]any{"type": "object", "properties": props, "required": required}, json.Deterministic(true))
	o.Body.Schema = schema
	return err
}

func (o *Operation) parameter(in, text string) error {
	p, err := parseParameter(text)
	p.In = in
	o.Parameters = append(o.Parameters, p)
	return err
}

func parseParameter(text string) (Parameter, error) {
	text = strings.TrimSpace(text)
	text, required := strings.CutSuffix(text, "!")
	name, kind, typed := strings.Cut(text, ":")
	if !typed {
		kind = String
		if base, many := strings.CutSuffix(name, "[]"); many {
			name, kind = base, String+"[]"
		}
	}
	kind, many := strings.CutSuffix(kind, "[]")
	if name == "" || strings.ContainsAny(name, " ()\"") || !slices.Contains([]string{String, Integer, Number, Boolean}, kind) {
		return Parameter{}, fmt.Errorf("%.40q is not NAME or NAME:TYPE with the type string, integer, number or boolean", text)
	}
	return Parameter{Name: name, Type: kind, Many: many, Required: required}, nil
}
