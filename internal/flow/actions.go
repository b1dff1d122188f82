package flow

import (
	"slices"
	"strings"
	"unicode"
)

// meaning are words with which people ask for the same kind of action, in
// English. Whoever works in another language declares the words of a tool
// (Spec.Asked).
var meaning = [][]string{
	{"send", "email", "mail", "message", "write", "reply", "respond", "answer", "forward", "dm", "notify", "tell", "ask", "inform"},
	{"pay", "transfer", "send", "wire", "refund", "reimburse", "money", "transaction", "settle"},
	{"delete", "remove", "discard", "erase", "drop"},
	{"create", "add", "make", "schedule", "book", "set", "new", "plan", "put", "invite", "open"},
	{"update", "change", "adjust", "modify", "edit", "reschedule", "move", "correct", "rename"},
	{"append", "add", "write", "put", "insert"},
	{"cancel", "withdraw"},
	{"reserve", "book", "reservation"},
	{"post", "publish", "share"},
	{"merge", "deploy", "release", "ship", "publish", "push"},
	{"approve", "accept", "confirm"},
}

// asks reports whether the user's words ask for what the tool does: a word that
// it declares, one of its name, or one that means the same as one of its name.
func (s Spec) asks(tool string, user *text) bool {
	if len(s.Asked) > 0 {
		return slices.ContainsFunc(s.Asked, func(w string) bool { return user.has(fold(w)) })
	}
	of := tokens(parted(tool))
	words := of
	for _, group := range meaning {
		if slices.ContainsFunc(of, func(w string) bool { return slices.Contains(group, w) }) {
			words = append(slices.Clip(words), group...)
		}
	}
	return slices.ContainsFunc(words, user.has)
}

// parted writes sendEmail as send Email.
func parted(name string) string {
	var b strings.Builder
	var last rune
	for _, r := range name {
		if unicode.IsUpper(r) && unicode.IsLower(last) {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
		last = r
	}
	return b.String()
}
