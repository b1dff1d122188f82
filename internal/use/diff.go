package use

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/policy"
)

// lines is a grant as a person reads it.
func lines(g policy.Grant) []string {
	out := []string{"grant: " + g.Name, "agent: " + g.Agent, "connection: " + g.Connection, "tools: " + strings.Join(g.Tools, ", ")}
	for line := range strings.SplitSeq(g.When, "\n") {
		if g.When != "" {
			out = append(out, "when: "+line)
		}
	}
	until := "never"
	if !g.Expires.IsZero() {
		until = g.Expires.UTC().Format(time.RFC3339)
	}
	return append(out, "expires: "+until)
}

// diff returns what becomes of a grant as a unified diff, one part a grant.
func diff(before policy.Grant, after []policy.Grant) string {
	var b strings.Builder
	kept := false
	for _, g := range after {
		if g.Name == before.Name {
			kept = true
			unified(&b, "grant/"+g.Name, "grant/"+g.Name, lines(before), lines(g))
		}
	}
	if !kept {
		unified(&b, "grant/"+before.Name, "/dev/null", lines(before), nil)
	}
	for _, g := range after {
		if g.Name != before.Name {
			unified(&b, "/dev/null", "grant/"+g.Name, nil, lines(g))
		}
	}
	return b.String()
}

// unified writes one part, whole: a grant is short.
func unified(b *strings.Builder, from, to string, old, new []string) {
	fmt.Fprintf(b, "--- %s\n+++ %s\n@@ -%s +%s @@\n", from, to, span(len(old)), span(len(new)))
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(old) > 0 && len(new) > 0 && old[0] == new[0]:
			b.WriteString(" " + old[0] + "\n")
			old, new = old[1:], new[1:]
		case len(old) > 0 && !slices.Contains(new, old[0]):
			b.WriteString("-" + old[0] + "\n")
			old = old[1:]
		case len(new) > 0:
			b.WriteString("+" + new[0] + "\n")
			new = new[1:]
		default:
			b.WriteString("-" + old[0] + "\n")
			old = old[1:]
		}
	}
}

func span(n int) string {
	if n == 0 {
		return "0,0"
	}
	return fmt.Sprintf("1,%d", n)
}
