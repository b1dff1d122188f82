package mapping

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Document is a document as an engine has it.
type Document struct {
	ID, Title, Text, Owner, Classification, Source, Collection string
	// Readers are who may read it: "user:NAME", "group:NAME", "team:NAME",
	// "agent:NAME" or Everyone.
	Readers []string
}

// Limits on what an engine answers.
const (
	MaxResults = 1000
	maxReaders = 1000
)

// ErrAnswer refuses an engine's answer.
var ErrAnswer = errors.New("the engine's answer is not what the mapping says")

// Read returns the documents in an answer of an engine. results is the path to
// them. One of which the id or the text cannot be read is left out, as nobody
// could check it.
func (m Mapping) Read(answer []byte, results string) ([]Document, error) {
	v, err := decode(answer)
	if err != nil {
		return nil, ErrAnswer
	}
	found := At(v, results)
	if len(found) == 1 {
		if list, ok := found[0].([]any); ok {
			found = list
		}
	}
	if len(found) > MaxResults {
		return nil, ErrAnswer
	}
	var out []Document
	for _, x := range found {
		if d, ok := m.Document(x); ok {
			out = append(out, d)
		}
	}
	return out, nil
}

// decode reads JSON strictly, to a depth.
func decode(b []byte) (any, error) {
	d := jsontext.NewDecoder(bytes.NewReader(b))
	for {
		if _, err := d.ReadToken(); err != nil {
			break // the end, or what the reader below says
		}
		if d.StackDepth() > maxDepth {
			return nil, ErrAnswer
		}
	}
	var v any
	return v, json.Unmarshal(b, &v)
}

// Document reads one result.
func (m Mapping) Document(v any) (Document, bool) {
	f := m.Fields
	d := Document{ID: one(v, f.ID), Title: one(v, f.Title), Text: one(v, f.Text), Owner: one(v, f.Owner),
		Classification: one(v, f.Classification), Source: one(v, f.Source), Collection: one(v, f.Collection)}
	ok := d.ID != "" && d.Text != ""
	for prefix, path := range map[string]string{"": f.Readers, "user:": f.Users, "group:": f.Groups} {
		if path == "" {
			continue
		}
		names, plain := many(v, path)
		ok = ok && plain && (len(names) > 0 || silent(v, path))
		d.Readers = appendNames(d.Readers, prefix, names)
	}
	return m.Settle(d), ok
}

// appendNames adds names to readers. An empty one names nobody, but it is there:
// such a document is not one that names no readers at all.
func appendNames(readers []string, prefix string, names []string) []string {
	for _, n := range names {
		if n == "" {
			prefix, n = "", nobody
		}
		readers = append(readers, prefix+n)
	}
	return readers
}

// nobody is a reader that no caller is.
const nobody = "nobody"

// Named returns a document with the readers that its fields name.
func (m Mapping) Named(d Document, readers, users, groups []string) (Document, bool) {
	for prefix, names := range map[string][]string{"": readers, "user:": users, "group:": groups} {
		d.Readers = appendNames(d.Readers, prefix, names)
	}
	return m.Settle(d), d.ID != "" && d.Text != "" && len(d.Readers) <= maxReaders
}

// Beneath returns the mapping with every field but the id beneath a path.
func (m Mapping) Beneath(prefix string) Mapping {
	f := &m.Fields
	for _, p := range []*string{&f.Title, &f.Text, &f.Owner, &f.Readers, &f.Users, &f.Groups, &f.Classification, &f.Source, &f.Collection} {
		if *p != "" {
			*p = prefix + *p
		}
	}
	return m
}

// Settle fills in what the mapping says of a document that does not say it
// itself.
func (m Mapping) Settle(d Document) Document {
	if len(d.Readers) == 0 && m.Unlisted == Everyone {
		d.Readers = []string{Everyone}
	}
	slices.Sort(d.Readers)
	if d.Source == "" {
		d.Source = m.Source
	}
	if d.Source != Trusted {
		d.Source = "untrusted"
	}
	return d
}

// At returns the values at a path: the names of members from the outside in,
// with dots between them; * stands for every element of a list.
func At(v any, path string) []any {
	if path == "" {
		return []any{v}
	}
	at := []any{v}
	for step := range strings.SplitSeq(path, ".") {
		var next []any
		for _, x := range at {
			switch x := x.(type) {
			case map[string]any:
				if y, ok := x[step]; ok {
					next = append(next, y)
				}
			case []any:
				if step == "*" {
					next = append(next, x...)
				}
			}
			if len(next) > MaxResults*4 {
				return nil
			}
		}
		at = next
	}
	return at
}

// silent reports whether v says nothing at a path: a member on the way is not
// there, null or an empty list. A list whose elements lack the rest of the path,
// or a text where an object should be, says something that nobody understood.
func silent(v any, path string) bool {
	for step := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case nil:
			return true
		case map[string]any:
			if step == "*" {
				return false
			}
			v = x[step]
		case []any:
			return step == "*" && len(x) == 0
		default:
			return false
		}
	}
	list, isList := v.([]any)
	return v == nil || isList && len(list) == 0
}

// one returns the text or number at a path, empty if there is none or several.
func one(v any, path string) string {
	if path == "" {
		return ""
	}
	found := At(v, path)
	if len(found) != 1 {
		return ""
	}
	s, _ := text(found[0])
	return s
}

func text(v any) (string, bool) {
	switch x := v.(type) {
	case string:
		return x, true
	case float64:
		if x >= 1<<53 || x <= -1<<53 { // another number may read the same
			return "", false
		}
		return strconv.FormatFloat(x, 'f', -1, 64), true
	}
	return "", false
}

// many returns the texts at a path: a text, a list of texts, or nothing. It
// reports false if there is anything else: who may read it is not known then.
func many(v any, path string) ([]string, bool) {
	var out []string
	for _, x := range At(v, path) {
		list, ok := x.([]any)
		if !ok {
			list = []any{x}
		}
		for _, e := range list {
			if e == nil {
				continue
			}
			s, ok := text(e)
			if !ok || len(out) >= maxReaders {
				return nil, false
			}
			out = append(out, s)
		}
	}
	return out, true
}
