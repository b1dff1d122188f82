package model

import "strconv"

// ending is why an answer ended.
type ending int

const (
	endTurn ending = iota
	endTools
	endLength
)

// answer is a reply ready for the wire: with identifiers, a reason why it ended
// and the tokens it is billed at.
type answer struct {
	reply
	ending  ending
	in, out int64
}

// answer asks the test model or the scripts what to say to c.
func (x *exchange) answer(c *conversation) answer {
	var r reply
	if x.knobs.preset != "" {
		r = x.knobs.reply(c)
	} else {
		r = next(c)
	}
	a := answer{reply: r, in: c.inputTokens()}
	for i := range a.calls {
		prefix := "call_"
		if x.dialect == anthropic {
			prefix = "toolu_"
		}
		a.calls[i].id = prefix + idOf(x.id, strconv.Itoa(i))
	}
	switch {
	case len(a.calls) > 0:
		a.ending = endTools
	case c.maxTokens > 0 && tokens(a.text) > c.maxTokens:
		a.text, a.ending = cut(a.text, int(c.maxTokens*4)), endLength
	}
	a.out = a.outputTokens()
	return a
}

// cut shortens text to at most n bytes on a character border.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && text[n]&0xC0 == 0x80 {
		n--
	}
	return text[:n]
}

// reply is what the test models say.
func (k knobs) reply(c *conversation) reply {
	switch k.preset {
	case "test-echo":
		return reply{text: c.lastUser()}
	case "test-tool":
		if len(c.tools) > 0 && len(c.turns) > 0 && c.turns[len(c.turns)-1].role == "user" {
			return reply{calls: []call{{name: c.tools[0], args: []byte(k.args)}}}
		}
		return reply{text: "done"}
	default:
		return reply{text: filler(max(1, k.size))}
	}
}
