package llm

import (
	"strings"
	"unicode"
)

// shape is what the outcome of a model's call says of its request: which model
// was asked, and of the newest words the script, and whether they are a prompt by
// which stolen keys are tried. Never the words.
type shape struct {
	Canned bool   `json:"canned,omitzero"`
	Model  string `json:"model,omitzero"`
	Script string `json:"script,omitzero"`
}

// shapeWithin is how much of the words is looked at, in bytes.
const shapeWithin = 600

func shapeOf(model, words string) shape {
	words = words[:min(len(words), shapeWithin)]
	return shape{Canned: canned(words), Model: model, Script: script(words)}
}

// clip bounds a model's name.
func clip(model string) string { return strings.ToValidUTF8(model[:min(len(model), 100)], "") }

// scripts are those that are told apart.
var scripts = []struct {
	name  string
	table *unicode.RangeTable
}{
	{"latin", unicode.Latin}, {"cyrillic", unicode.Cyrillic}, {"han", unicode.Han}, {"arabic", unicode.Arabic}, {"hangul", unicode.Hangul}, {"kana", unicode.Hiragana},
	{"kana", unicode.Katakana}, {"devanagari", unicode.Devanagari}, {"hebrew", unicode.Hebrew}, {"greek", unicode.Greek}, {"thai", unicode.Thai},
}

// script returns the script of most letters, "" of fewer than eight: a number or
// a name says nothing.
func script(words string) string {
	var n [16]int
	letters := 0
	for _, r := range words {
		if !unicode.IsLetter(r) {
			continue
		}
		letters++
		for i, s := range scripts {
			if unicode.Is(s.table, r) {
				n[i]++
				break
			}
		}
	}
	best := 0
	for i := range scripts {
		if n[i] > n[best] {
			best = i
		}
	}
	if letters < 8 || n[best]*2 < letters {
		return ""
	}
	return scripts[best].name
}

// cannedPrompts are what scanners were seen to ask of models that they had found
// open or bought (GreyNoise, January 2026): questions no program needs an answer to.
var cannedPrompts = []string{
	"how many states are there in the united states",
	"how many letter r are in the word strawberry", "how many letters r are in the word strawberry", "how many rs are in strawberry", "how many r are in strawberry",
	"what model are you", "which model are you", "what actually are you",
}

func canned(words string) bool {
	if len(words) > 120 {
		return false
	}
	plain := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || r == ' ' {
			return unicode.ToLower(r)
		}
		return -1
	}, words)
	plain = strings.Join(strings.Fields(plain), " ")
	for _, p := range cannedPrompts {
		if strings.HasPrefix(plain, p) && len(plain) <= len(p)+24 {
			return true
		}
	}
	return false
}

// odd names the parameter of a request that no client sends, by which stolen keys
// are tried without using them up: the error tells whether the key is good.
func odd(q request, body []byte) string {
	if negative(q.maxTokens) {
		return "max_tokens"
	}
	if negative(q.n) {
		return "n"
	}
	for _, s := range q.prompt {
		if s.name == "prompt" && len(s.parts) == 0 && s.end > s.start && body[s.start] == '[' {
			return "messages"
		}
	}
	return ""
}

// negative reports whether a number is not positive. One that cannot be read says
// nothing here; policy refuses it.
func negative(v []byte) bool {
	return len(v) > 0 && (v[0] == '-' || strings.Trim(string(v), "0.") == "")
}
