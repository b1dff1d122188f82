package inspection

// RuleNames lists the rules for tests: what each rule writes, and what a
// marker may carry.
func RuleNames() (written, allowed map[string]bool) {
	written = map[string]bool{KnownRule: true, unsafeRule: true, cardRule: true}
	for _, name := range []string{"azure-secret", "email", "phone", "iban", "codice-fiscale", "hidden-text"} { // of scans that are no rules
		written[name] = true
	}
	for _, k := range nationals {
		written[k.rule] = true
	}
	for _, r := range rules {
		written[r.name] = true
	}
	return written, ruleNames
}

// BetweenMarkers returns what Redact left of b.
func BetweenMarkers(b []byte) (pieces [][]byte) {
	at := 0
	for _, m := range markers(b) {
		pieces = append(pieces, b[at:m.Start])
		at = m.End
	}
	return append(pieces, b[at:])
}

// ScanRules returns what the rules find in b, and what they find without the
// prefilter: every rule is tried at every place.
func ScanRules(b []byte) (fast, slow []Finding) {
	h := hunt{b: b, kinds: All}
	for i := range b {
		for n := range rules {
			if r := &rules[n]; r.begins(b[i:]) && (h.seen == nil || i >= (*h.seen)[r.index]) {
				h.match(r, i)
			}
		}
	}
	return settle(b, scanRules(b, All, nil)), settle(b, h.found)
}

// Literals returns what the rules begin with.
func Literals() (out []string) {
	for _, r := range rules {
		out = append(out, r.literal)
	}
	return out
}

// Decoded returns how many bytes of decoded text are looked at for b.
func Decoded(b []byte) (n int) {
	input := view{text: b, pieces: []piece{{0, len(b), true, true}}, around: around}
	for queue := input.decodings(nil); len(queue) > 0; queue = queue[1:] {
		n += len(queue[0].text)
		if queue[0].depth < maxDepth {
			queue = append(queue, queue[0].decodings(queue[0])...)
		}
	}
	return n
}
