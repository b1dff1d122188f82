package model

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"regexp"
	"strings"
)

// plainScript is for every other conversation: it makes the calls the user
// spells out ("call get_order with {"number":"O-20001"}"), obeys what it reads,
// and otherwise answers in one sentence.
var plainScript = script{
	name: "plain",
	role: regexp.MustCompile(``),
	steps: []step{
		{"asked", "I will do that.", func(v view) []wish {
			var out []wish
			text := v.c.lastUser()
			for _, m := range callOrder.FindAllStringSubmatchIndex(text, -1) {
				var args obj
				raw, err := jsontext.NewDecoder(strings.NewReader(text[m[4]:])).ReadValue()
				if err == nil && json.Unmarshal(raw, &args) == nil {
					out = append(out, wish{tool: text[m[2]:m[3]], args: args})
				}
			}
			return out
		}},
		{"obey", "What I read asks me to do something.", obeyed},
	},
	sumUp: func(v view) string {
		all := v.all()
		if len(all) > 0 {
			return "Done: " + cut(all[len(all)-1].text, 400) + v.refusals()
		}
		return "I am a scripted model. You said: " + cut(v.c.lastUser(), 200)
	},
}
