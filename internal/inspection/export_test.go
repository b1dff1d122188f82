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
