package pseudonyms

import (
	"bytes"
	"encoding/base32"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// ErrStored is returned when placeholders cannot be looked up or written.
var ErrStored = fault.New(fault.Unavailable, "pseudonyms_unavailable", "what stands for values cannot be looked up; try again")

// MaxValue is the longest value that a placeholder stands for, in bytes.
const MaxValue = 512

// MaxText is the longest text that a reference stands for, in bytes.
const MaxText = 1 << 20

// Agent is whose placeholders they are.
type Agent struct{ ID, Name string }

var encoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

const tokenBytes = 10 // of the keyed digest: 16 characters

// form is how a placeholder stands in a text. Models leave brackets out.
var form = regexp.MustCompile(`\[[a-z]{2,12}:[a-z0-9-]{1,48}:[0-9a-hjkmnp-tv-z]{16}\]|\b[a-z]{2,12}:[a-z0-9-]{1,48}:[0-9a-hjkmnp-tv-z]{16}\b`)

// Fit reports whether a value can have a placeholder: it must be the same text
// wherever it stands, in a JSON string too.
func Fit(value []byte) bool {
	return len(value) > 0 && len(value) <= MaxValue && utf8.Valid(value) && !bytes.ContainsAny(value, `"\[]`) && !bytes.ContainsFunc(value, unicode.IsControl)
}

// In reports whether something in a text may be a placeholder with one of these
// labels.
func In(b []byte, labels []string) bool { return len(tokens(b, labels)) > 0 }

// tokens returns the placeholders in a text with one of these labels, without
// brackets, each once.
func tokens(b []byte, labels []string) []string {
	if !slices.ContainsFunc(labels, func(l string) bool { return bytes.Contains(b, []byte(l+":")) }) {
		return nil
	}
	var out []string
	for _, m := range form.FindAll(b, mostIn+1) {
		t := bare(m)
		label, _, _ := strings.Cut(t, ":")
		if slices.Contains(labels, label) && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

func bare(m []byte) string { return string(bytes.Trim(m, "[]")) }

// mostIn is how many placeholders of one text are looked at.
const mostIn = 1000
