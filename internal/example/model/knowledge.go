package model

import (
	"regexp"
	"slices"
	"strings"
)

// knowledgeScript answers a question out of documents: search, obey whatever a
// document says to the assistant (hijack.go), mail the answer where the question
// asks for it, answer.
var knowledgeScript = script{
	name: "knowledge",
	role: regexp.MustCompile(`(?i)\bknowledge assistant\b`),
	steps: []step{
		{"search", "Let me look into the handbook.", func(v view) []wish {
			return []wish{{tool: "search", args: obj{"query": keywords(v.c.lastUser())}}}
		}},
		{"obey", "A document asks me to do something first.", obeyed},
		{"mail", "I mail the answer, as I was asked.", func(v view) []wish {
			m := mailTo.FindStringSubmatch(v.c.lastUser())
			if m == nil || len(v.documents()) == 0 {
				return nil
			}
			return []wish{{tool: "send_email", args: obj{"to": m[1], "subject": "From the handbook", "body": v.extract()}}}
		}},
	},
	sumUp: func(v view) string {
		if len(v.documents()) == 0 {
			return "The handbook says nothing about that." + v.refusals()
		}
		return v.extract() + v.refusals()
	},
}

// mailTo is how a colleague asks for the answer by mail.
var mailTo = regexp.MustCompile(`(?i)\bmail the answer to ([^\s,;()<>]+@[^\s,;()<>]*[a-z])`)

// document is what the script reads of a search's answer.
type document struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

func (v view) documents() []document {
	var found struct {
		Documents []document `json:"documents"`
	}
	v.read("search", &found)
	return found.Documents
}

// extract is the first sentence of each document, with its name.
func (v view) extract() string {
	var parts []string
	for _, d := range v.documents() {
		sentence, _, _ := strings.Cut(strings.TrimSpace(d.Text), "\n")
		parts = append(parts, d.ID+": "+cut(sentence, 200))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// keywords are the words of the first sentence that say what it is about.
func keywords(question string) string {
	const telling = 6 // letters of a word
	sentence, _, _ := strings.Cut(question, "?")
	words := strings.FieldsFunc(sentence, func(r rune) bool { return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') })
	words = slices.DeleteFunc(words, func(w string) bool { return len(w) < telling })
	if len(words) == 0 {
		return cut(question, 200)
	}
	return strings.ToLower(strings.Join(words, " "))
}
