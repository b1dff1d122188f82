package flow

import (
	"bytes"
	"encoding/json/jsontext"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of what is read out of a result. What is beyond them endorses nothing.
const (
	maxDecode  = 256 << 10 // bytes of one text that is itself a document
	maxDepth   = 32
	maxRecords = 4_000   // of one result
	maxLeaf    = 512     // bytes of a value that can endorse
	maxText    = 1 << 20 // bytes of all that a run was told
)

// leaf is one decoded value.
type leaf struct {
	key   string // of the member that holds it; of the list's member for its elements
	value string
	text  bool // it was a string
}

// record is one object of a result with the values that it holds itself, or in
// lists and objects without an id of their own.
type record struct {
	leaves []leaf
}

// records decodes a result. A text that is itself JSON or YAML of objects is
// read as that; any other is one value without a name.
func records(result []byte) []record {
	d := decoder{}
	v, ok := fromJSON(result)
	if !ok {
		v, ok = fromText(string(result))
	}
	if !ok {
		return []record{{leaves: []leaf{{value: string(result), text: true}}}}
	}
	d.walk(v, "", nil, 0)
	return d.out
}

// value is a decoded document: node of an object, a list, or a scalar.
type value struct {
	members []member
	list    []value
	scalar  string
	kind    byte // '{', '[', 's' string, 'v' other scalar
}

type member struct {
	name  string
	value value
}

func fromJSON(b []byte) (value, bool) {
	dec := jsontext.NewDecoder(bytes.NewReader(b), jsontext.AllowDuplicateNames(true))
	v, ok := readJSON(dec, 0)
	return v, ok
}

func readJSON(dec *jsontext.Decoder, depth int) (value, bool) {
	if depth > maxDepth {
		return value{}, false
	}
	t, err := dec.ReadToken()
	if err != nil {
		return value{}, false
	}
	switch t.Kind() {
	case '"':
		return value{kind: 's', scalar: t.String()}, true
	case '{':
		v := value{kind: '{'}
		for dec.PeekKind() != '}' {
			name, err := dec.ReadToken()
			if err != nil {
				return value{}, false
			}
			n := name.String()
			x, ok := readJSON(dec, depth+1)
			if !ok {
				return value{}, false
			}
			v.members = append(v.members, member{n, x})
		}
		_, err = dec.ReadToken()
		return v, err == nil
	case '[':
		v := value{kind: '['}
		for dec.PeekKind() != ']' {
			x, ok := readJSON(dec, depth+1)
			if !ok {
				return value{}, false
			}
			v.list = append(v.list, x)
		}
		_, err = dec.ReadToken()
		return v, err == nil
	case 'n':
		return value{kind: 'v'}, true
	}
	return value{kind: 'v', scalar: t.String()}, true
}

// fromText reads a document of objects or lists out of a text. Prose is none.
func fromText(s string) (value, bool) {
	s = strings.TrimSpace(s)
	if len(s) == 0 || len(s) > maxDecode || !utf8.ValidString(s) {
		return value{}, false
	}
	if s[0] == '{' || s[0] == '[' {
		if v, ok := fromJSON([]byte(s)); ok {
			return v, true
		}
	}
	var n yaml.Node
	if !strings.ContainsAny(s, ":{[") || yaml.Unmarshal([]byte(s), &n) != nil || len(n.Content) != 1 {
		return value{}, false
	}
	v, ok := fromYAML(n.Content[0], 0)
	return v, ok && structured(v)
}

func structured(v value) bool {
	return v.kind == '{' || (v.kind == '[' && len(v.list) > 0 && v.list[0].kind != 's' && v.list[0].kind != 'v')
}

func fromYAML(n *yaml.Node, depth int) (value, bool) {
	if depth > maxDepth {
		return value{}, false
	}
	switch n.Kind {
	case yaml.MappingNode:
		v := value{kind: '{'}
		for i := 0; i+1 < len(n.Content); i += 2 {
			x, ok := fromYAML(n.Content[i+1], depth+1)
			if !ok || n.Content[i].Kind != yaml.ScalarNode {
				return value{}, false
			}
			v.members = append(v.members, member{n.Content[i].Value, x})
		}
		return v, true
	case yaml.SequenceNode:
		v := value{kind: '['}
		for _, c := range n.Content {
			x, ok := fromYAML(c, depth+1)
			if !ok {
				return value{}, false
			}
			v.list = append(v.list, x)
		}
		return v, true
	case yaml.ScalarNode:
		kind := byte('v')
		if n.Tag == "!!str" {
			kind = 's'
		}
		return value{kind: kind, scalar: n.Value}, true
	}
	return value{}, false // an alias: nothing that a service writes needs one, and they can multiply
}

type decoder struct{ out []record }

// walk collects the records of v. What it finds outside an object goes to into,
// or stands alone.
func (d *decoder) walk(v value, key string, into *record, depth int) {
	if depth > maxDepth || len(d.out) >= maxRecords {
		return
	}
	switch v.kind {
	case '{':
		own := into
		if own == nil || hasID(v) {
			own = &record{}
		}
		for _, m := range v.members {
			if own != into || depth > 0 {
				d.keyed(m, key, own)
			}
			d.walk(m.value, m.name, own, depth+1)
		}
		if own != into && len(own.leaves) > 0 {
			d.out = append(d.out, *own)
		}
	case '[':
		for _, x := range v.list {
			next := into
			if x.kind == '{' {
				next = nil
			}
			d.walk(x, key, next, depth+1)
		}
	case 's', 'v':
		d.scalar(v, key, into)
	}
}

// keyed keeps the names of members that are values themselves: addresses, in
// {"shared_with": {"ann@example.com": "r"}}.
func (d *decoder) keyed(m member, key string, into *record) {
	if key != "" && strings.Contains(m.name, "@") {
		into.leaves = append(into.leaves, leaf{key: key, value: m.name, text: true})
	}
}

// scalar keeps one value. A text that is itself a document is read as one.
func (d *decoder) scalar(v value, key string, into *record) {
	if v.kind == 's' && into != nil && key == "text" || into == nil {
		if inner, ok := fromText(v.scalar); ok {
			d.walk(inner, "", nil, 1)
			return
		}
	}
	l := leaf{key: key, value: v.scalar, text: v.kind == 's'}
	if into == nil {
		d.out = append(d.out, record{leaves: []leaf{l}})
		return
	}
	into.leaves = append(into.leaves, l)
}

func hasID(v value) bool {
	for _, m := range v.members {
		if idKey.MatchString(m.name) {
			return true
		}
	}
	return false
}

// The forms of members, where a person declared nothing.
var (
	idKey     = regexp.MustCompile(`(?i)^(id|.*(_id|Id|ID|-id))_?$|^id_$|^(uuid|key|number)$`)
	textKey   = regexp.MustCompile(`(?i)^(body|content|contents|text|description|message|messages|note|notes|comment|comments|summary|review|reviews|excerpt|snippet|html|markdown|details|bio|about)$`)
	amountKey = regexp.MustCompile(`(?i)(^|_)(amount|price|total|sum|cost|fee|rent|due)(_|$)`)
)

// kindOf says what a field is: as declared, or by its form.
func (s Spec) kindOf(l leaf) string {
	if k, ok := s.Fields[l.key]; ok {
		return k
	}
	switch {
	case l.key == "" || textKey.MatchString(l.key) || len(l.value) > maxLeaf || strings.ContainsAny(l.value, "\n\r"):
		return FieldText
	case idKey.MatchString(l.key):
		return FieldID
	case amountKey.MatchString(l.key):
		if _, err := strconv.ParseFloat(l.value, 64); err == nil {
			return FieldAmount
		}
	}
	return FieldService
}
