package argschema

import (
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

func sortedMembers(list []member) []member {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b member) int { return strings.Compare(a.name, b.name) })
	return sorted
}

// size is how much there is to compare in a value.
func size(v *value) int {
	n := 1 + len(v.text)/64
	for _, x := range v.list {
		n += size(x)
	}
	for _, m := range v.members {
		n += size(m.value)
	}
	return n
}

// count returns a keyword's number, as far as it is one that counts something.
func count(schema *value, name string) (int, bool) {
	k := schema.get(name)
	if k == nil || k.kind != '0' {
		return 0, false
	}
	n, ok := k.number()
	if !ok || !n.IsInt() || !n.Num().IsInt64() {
		return 0, false
	}
	return int(n.Num().Int64()), true
}

// within checks a number of things against two keywords.
func (c *checker) within(schema *value, n int, least, most, what string) bool {
	if k, ok := count(schema, least); ok && n < k {
		return c.fail("has fewer than " + strconv.Itoa(k) + " " + what)
	}
	if k, ok := count(schema, most); ok && n > k {
		return c.fail("has more than " + strconv.Itoa(k) + " " + what)
	}
	return true
}

func (c *checker) object(schema, v *value) bool {
	if !c.within(schema, len(v.members), "minProperties", "maxProperties", "members") || !c.required(schema, v) {
		return false
	}
	props, patterns, rest := schema.get("properties"), schema.get("patternProperties"), schema.get("additionalProperties")
	names := schema.get("propertyNames")
	for _, m := range v.members {
		if names != nil && !c.try(names, &value{kind: '"', text: m.name}) {
			return c.fail("has a member whose name is not allowed: " + strconv.Quote(clip(m.name)))
		}
		known := false
		if props != nil {
			if s := props.get(m.name); s != nil {
				known = true
				if !c.in(step{name: m.name}, s, m.value) {
					return false
				}
			}
		}
		matched, ok := c.patterned(patterns, m)
		if !ok {
			return false
		}
		if known || matched || rest == nil {
			continue
		}
		if rest.kind == 'f' {
			return c.fail("has a member that is not allowed: " + strconv.Quote(clip(m.name)))
		}
		if !c.in(step{name: m.name}, rest, m.value) {
			return false
		}
	}
	return !c.spent
}

// patterned checks a member against the patterns of names that it matches.
func (c *checker) patterned(patterns *value, m member) (matched, ok bool) {
	if patterns == nil {
		return false, true
	}
	for _, p := range patterns.members {
		re := c.s.patterns[p.name]
		if !c.spend(1 + len(m.name)*re.weight/256) {
			return false, false
		}
		if re.Regexp == nil || len(m.name) > maxMatched || !re.MatchString(m.name) {
			continue
		}
		matched = true
		if !c.in(step{name: m.name}, p.value, m.value) {
			return true, false
		}
	}
	return matched, true
}

func (c *checker) required(schema, v *value) bool {
	demand := func(list *value) bool {
		for _, r := range list.list {
			if r.kind == '"' && v.get(r.text) == nil {
				return c.fail("lacks the member " + strconv.Quote(clip(r.text)))
			}
		}
		return true
	}
	if r := schema.get("required"); r != nil && !(c.spend(len(r.list)) && demand(r)) {
		return false
	}
	for _, keyword := range []string{"dependentRequired", "dependentSchemas", "dependencies"} { // the last one until draft 7
		deps := schema.get(keyword)
		if deps == nil {
			continue
		}
		for _, d := range deps.members {
			switch {
			case v.get(d.name) == nil:
			case d.value.kind == '[':
				if !c.spend(len(d.value.list)) || !demand(d.value) {
					return false
				}
			case !c.check(d.value, v):
				return false
			}
		}
	}
	return true
}

func (c *checker) array(schema, v *value) bool {
	if !c.within(schema, len(v.list), "minItems", "maxItems", "elements") {
		return false
	}
	if u := schema.get("uniqueItems"); u != nil && u.kind == 't' && !c.unique(v) {
		return c.fail("has an element twice")
	}
	first, rest := schema.get("prefixItems"), schema.get("items")
	if rest != nil && rest.kind == '[' { // until draft 2019-09
		first, rest = rest, schema.get("additionalItems")
	}
	for i, x := range v.list {
		s := rest
		if first != nil && i < len(first.list) {
			s = first.list[i]
		}
		if s != nil && !c.in(step{index: i}, s, x) {
			return false
		}
	}
	return c.contains(schema, v)
}

func (c *checker) unique(v *value) bool {
	if !c.spend(size(v)) {
		return false
	}
	seen := make(map[string]bool, len(v.list))
	for _, x := range v.list {
		seen[string(x.canonical(nil))] = true
	}
	return len(seen) == len(v.list)
}

func (c *checker) contains(schema, v *value) bool {
	s := schema.get("contains")
	if s == nil {
		return true
	}
	n := 0
	for _, x := range v.list {
		if c.try(s, x) {
			n++
		}
	}
	if _, ok := count(schema, "minContains"); !ok && n == 0 {
		return c.fail("has no element of the kind that it must have")
	}
	return c.within(schema, n, "minContains", "maxContains", "elements of a kind")
}

func (c *checker) text(schema, v *value) bool {
	if schema.get("minLength") != nil || schema.get("maxLength") != nil {
		if !c.within(schema, utf8.RuneCountInString(v.text), "minLength", "maxLength", "characters") {
			return false
		}
	}
	if p := schema.get("pattern"); p != nil && p.kind == '"' {
		re := c.s.patterns[p.text]
		switch {
		case re.Regexp == nil: // Unchecked
		case len(v.text) > maxMatched || !c.spend(len(v.text)*re.weight/256):
			return c.fail("is too long to be checked against its pattern")
		case !re.MatchString(v.text):
			return c.fail("does not match its pattern")
		}
	}
	f := schema.get("format")
	if f == nil || f.kind != '"' {
		return true
	}
	if is := formats[f.text]; is != nil && !is(v.text) {
		return c.fail("is not of the format " + f.text)
	}
	return true
}

func (c *checker) number(schema, v *value) bool {
	var n *big.Rat
	for _, bound := range []struct {
		name string
		ok   func(cmp int) bool
		what string
	}{
		{"minimum", func(cmp int) bool { return cmp >= 0 }, "is too small"},
		{"maximum", func(cmp int) bool { return cmp <= 0 }, "is too large"},
		{"exclusiveMinimum", func(cmp int) bool { return cmp > 0 }, "is too small"},
		{"exclusiveMaximum", func(cmp int) bool { return cmp < 0 }, "is too large"},
	} {
		k := schema.get(bound.name)
		if k == nil {
			continue
		}
		if k.kind == 't' { // until draft 4: the other bound is one that is not reached
			k = schema.get(map[string]string{"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}[bound.name])
		}
		if k == nil || k.kind != '0' {
			continue
		}
		limit, ok := k.number()
		if n == nil && ok {
			n, ok = v.number()
		}
		if !ok {
			return c.fail("is a number out of all bounds")
		}
		if !bound.ok(n.Cmp(limit)) {
			return c.fail(bound.what)
		}
	}
	k := schema.get("multipleOf")
	if k == nil || k.kind != '0' {
		return true
	}
	of, ok := k.number()
	n, fine := v.number()
	if !ok || !fine || of.Sign() <= 0 || !new(big.Rat).Quo(n, of).IsInt() {
		return c.fail("is not a multiple of what it must be")
	}
	return true
}
